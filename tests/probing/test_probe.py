from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ssltool.encoders.weights import load_encoder
from ssltool.errors import DataError, UsageError, WeightsError
from ssltool.probing.datasets import LabeledImages, read_label_file
from ssltool.probing.online import CollapseMonitor, OnlineKNN
from ssltool.probing.probe import Clock, ProbeOptions, probe
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    given = {
        "data": ("demo:16",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 2,
        "workers": 0,
        "out": out,
    }
    pretrain(RunConfig.merged("jigsaw", {**given, "precision": "fp32"}), console=QUIET)
    return out


def probed(run: Path, **changes: Any) -> dict[str, Any]:
    values = {"weights": run, "data": ("demo:100",), "test_data": ("demo-test:50",), "workers": 0}
    values |= {"grid_numbers": 64, "keep_features": False, **changes}
    return probe(ProbeOptions.checked(**values), QUIET)


def test_every_stage_is_probed_beside_random_weights_and_pixels(run: Path) -> None:
    result = probed(run)
    stages = ["pooled", "stem", "layer1", "layer2", "layer3", "layer4"]
    for name in ("jigsaw", "random init"):
        rows = [row for row in result["rows"] if row["features"] == name]
        assert [row["stage"] for row in rows if not row["stage"].endswith("grid")] == stages
        assert {"linear", "knn5", "knn20", "knn200"} <= set(rows[0])
        pooled, last = rows[0], next(row for row in rows if row["stage"] == "layer4")
        assert {**last, "stage": "pooled"} == pooled
    pixels, majority = result["rows"][-2:]
    assert (pixels["features"], pixels["numbers"]) == ("pixels", 3072)
    assert majority["features"] == "majority class"
    assert majority["linear"] == majority["knn20"] == 10
    assert (result["train_images"], result["test_images"], len(result["classes"])) == (
        100,
        50,
        10,
    )
    best = result["rows"][result["best"]]
    assert best["features"] == "jigsaw"
    assert best["linear"] == max(
        row["linear"] for row in result["rows"] if row["features"] == "jigsaw"
    )
    confusion = torch.tensor(result["details"]["confusion"])
    assert confusion.shape == (10, 10)
    assert confusion.sum(1).tolist() == [5] * 10
    assert 100 * int(confusion.diagonal().sum()) / 50 == pytest.approx(best["linear"], abs=1e-3)
    for name, share in result["details"]["per_class"].items():
        row = result["classes"].index(name)
        assert share == pytest.approx(100 * int(confusion[row, row]) / 5)
    healthy = result["health"]["jigsaw"]
    assert 1 < healthy["effective_rank"] <= 50
    assert not healthy["warning"]
    assert json.loads((run / "probe.json").read_text()) == json.loads(json.dumps(result))
    assert all(Path(path).read_bytes()[:4] == b"\x89PNG" for path in result["charts"])
    assert len(result["charts"]) == 2


def test_the_same_command_gives_the_same_document_from_features_that_were_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "data": ("demo:40",),
        "kinds": ("linear", "knn"),
        "cache": tmp_path,
        "keep_features": True,
        "to": None,
    }
    changes["test_data"] = ("demo-test:20",)
    first = probed(run, **changes)
    fresh = probed(run, **{**changes, "keep_features": False})

    def no_images(*args: object, **kwargs: object) -> None:
        raise AssertionError("features are read anew")

    monkeypatch.setattr("ssltool.probing.store.FeatureStore.put", no_images)
    assert json.dumps(probed(run, **changes)) == json.dumps(first) == json.dumps(fresh)


def test_support_vectors_and_a_hidden_layer(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssltool.probing.mlp._LEAST_STEPS", 50)
    changes = {
        "data": ("demo:60",),
        "kinds": ("svm", "mlp"),
        "baselines": False,
        "repeats": 2,
        "to": None,
    }
    row = probed(run, **changes)["rows"][0]
    assert set(row) == {
        "features",
        "stage",
        "numbers",
        "svm",
        "svm_map",
        "svm_converged",
        "mlp",
        "mlp_deviation",
    }
    assert row["svm_map"] > 10
    assert row["mlp"] > 5


def test_images_of_several_classes_are_told_by_a_file(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    lines = ["file,labels"]
    for i in range(24):
        red, blue = i % 2 == 0, i % 3 == 0
        Image.new("RGB", (40, 40), (200 * red, i, 200 * blue)).save(tmp_path / f"{i}.png")
        names = ["red"] * red + ["blue" if i % 12 else "?blue"] * blue
        lines.append(f"{i}.png,{';'.join(names)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    several = {"data": (str(tmp_path),), "test_data": (), "label_file": tmp_path / "labels.csv"}
    images = LabeledImages(several["data"], label_file=several["label_file"])
    assert images.several
    assert images.classes == ("blue", "red")
    targets = torch.cat(
        [images.targets(s, torch.arange(images.count(s))) for s in ("train", "test")]
    )
    assert sorted(targets[:, 0].tolist()) == [-1.0] * 16 + [0.0] * 2 + [1.0] * 6
    result = probed(run, **several, baselines=False)
    assert {row["stage"] for row in result["rows"]} > {"pooled", "layer1"}
    assert all(set(row) >= {"svm_map"} and "linear" not in row for row in result["rows"])
    assert result["rows"][result["best"]]["svm_map"] > 60
    with pytest.raises(UsageError, match="several classes each, which linear cannot use"):
        probed(run, **several, kinds=("linear",))


@pytest.mark.parametrize("text", ["", "a.png", "a.png,x,y"])
def test_label_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected"):
        read_label_file(tmp_path / "labels.csv")


def test_plain_weights_are_matched_strictly(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    tensors = resnet18().state_dict()
    save_file(tensors, tmp_path / "plain.safetensors")
    said = io.StringIO()
    values = {
        "weights": tmp_path / "plain.safetensors",
        "data": ("demo:40",),
        "test_data": ("demo-test:20",),
    }
    values |= {
        "workers": 0,
        "kinds": ("knn",),
        "baselines": False,
        "keep_features": False,
        "image_size": 32,
    }
    result = probe(
        ProbeOptions.checked(**values, backbone="resnet18"), Console(width=300, file=said)
    )
    assert (
        "120 tensors matched resnet18, none was left; passed over fc.bias, fc.weight"
        in said.getvalue()
    )
    assert result["method"] == "plain weights"
    with pytest.raises(UsageError, match="--backbone"):
        probe(ProbeOptions.checked(**values), QUIET)
    save_file(
        {f"module.{key}": value for key, value in tensors.items()}, tmp_path / "plain.safetensors"
    )
    with pytest.raises(
        WeightsError, match=r"conv1.weight is missing, module.bn1.bias is unexpected"
    ):
        probe(ProbeOptions.checked(**values, backbone="resnet18"), QUIET)


def test_times_are_told_apart(run: Path) -> None:
    clock = Clock()
    probe(
        ProbeOptions.checked(
            weights=run, data=("demo:40",), kinds=("knn",), workers=0, keep_features=False
        ),
        QUIET,
        clock,
    )
    assert clock.reading > 0
    assert clock.fitting > 0


def test_a_collapsing_network_is_mentioned_once(run: Path) -> None:
    encoder = load_encoder(run)
    assert encoder.metadata is not None
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    watch = CollapseMonitor(images)
    numbers, warning = watch.look(encoder, encoder.metadata)
    assert numbers["effective_rank"] > 1.5
    assert not warning
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    assert "collapsed" in watch.look(encoder, encoder.metadata)[1]
    assert not watch.look(encoder, encoder.metadata)[1]


def test_kinds_and_baselines_can_be_left_out(run: Path) -> None:
    rows = probed(run, kinds=("knn",), baselines=False)["rows"]
    assert [(row["features"], row["stage"]) for row in rows] == [("jigsaw", "pooled")]
    assert "linear" not in rows[0]


def test_without_test_images_a_fifth_is_held_out(run: Path) -> None:
    result = probed(run, test_data=(), kinds=("knn",), baselines=False)
    assert (result["train_images"], result["test_images"]) == (80, 20)


def test_unlabelled_images_and_unknown_classes_are_refused(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("flat/a.png", "odd/unheard/a.png", "odd/car/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    with pytest.raises(DataError, match="folder of their own"):
        probed(run, data=(str(tmp_path / "flat"),))
    with pytest.raises(DataError, match="unheard"):
        probed(run, test_data=(str(tmp_path / "odd"),))


@pytest.fixture(scope="module")
def cpc_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cpc"
    given = {
        "data": ("demo:16",),
        "image_size": 20,
        "batch_size": 4,
        "steps": 2,
        "workers": 0,
        "out": out,
    }
    given |= {"directions": 1, "precision": "fp32", "backbone": "resnet20"}
    pretrain(RunConfig.merged("cpc", given), console=QUIET)
    return out


def test_an_encoder_of_patches_is_read_in_both_ways(cpc_run: Path) -> None:
    result = probed(cpc_run, data=("demo:40",), test_data=("demo-test:20",), kinds=("linear",))
    rows = {(row["features"], row["stage"]): row for row in result["rows"]}
    names = ["cpc (whole)", "cpc (patch)", "random init (whole)", "random init (patch)"]
    assert list(rows) == [
        *((name, "pooled") for name in names),
        ("pixels", "pixels"),
        ("majority class", ""),
    ]
    assert result["rows"][result["best"]]["features"] in names[:2]
    assert result["rows"][result["best"]]["linear"] == max(
        rows[name, "pooled"]["linear"] for name in names[:2]
    )


def test_shares_of_the_labels_are_a_table_and_a_curve(cpc_run: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data": ("demo:40",), "test_data": ("demo-test:20",), "kinds": ("linear", "finetune"), "labels": (0.5, 1.0),
        "finetune_images": 64, "to": tmp_path,
    }  # fmt: skip
    result = probed(cpc_run, **changes)
    found = {(row["features"], row["how"], row["share"]): row for row in result["labels"]}
    names = ("cpc", "random init")
    expected = {
        (name, how, share)
        for name in names
        for how in ("linear", "finetune")
        for share in (0.5, 1.0)
    }
    assert set(found) == expected
    assert {row["images"] for row in result["labels"]} == {20, 40}
    assert all(0 <= row["accuracy"] <= 100 for row in result["labels"])
    # With all labels the frozen probe is the one of the main table.
    pooled = next(row for row in result["rows"] if row["features"] == "cpc")
    assert found["cpc", "linear", 1.0]["accuracy"] == pooled["linear"]
    assert (tmp_path / "probe-labels.png").read_bytes()[:4] == b"\x89PNG"
    assert str(tmp_path / "probe-labels.png") in result["charts"]


def test_shots_with_repeats_have_a_deviation(cpc_run: Path) -> None:
    few = {"data": ("demo:40",), "test_data": ("demo-test:20",), "baselines": False}
    result = probed(
        cpc_run,
        **few,
        kinds=("linear",),
        shots=(1, 3),
        repeats=2,
        scratch=True,
        finetune_images=32,
    )
    frozen = [row for row in result["labels"] if row["how"] == "linear"]
    assert [(row["shots"], row["images"], row["repeats"]) for row in frozen] == [
        (1, 10, 2),
        (3, 30, 2),
    ]
    assert all(row["deviation"] >= 0 for row in frozen)
    scratch = result["labels"][-1]
    assert (scratch["features"], scratch["images"]) == ("trained from scratch", 40)


def test_fine_tuning_alone_reads_no_features(run: Path) -> None:
    few = {"data": ("demo:40",), "test_data": ("demo-test:20",)}
    result = probed(run, **few, kinds=("finetune",), finetune_images=16)
    assert result["rows"] == []
    assert [(row["features"], row["share"]) for row in result["labels"]] == [
        ("jigsaw", 1.0),
        ("random init", 1.0),
    ]
    assert result["charts"] == []


def test_shares_outside_0_and_1_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="--labels"):
        probed(run, labels=(0.0, 2.0))


def test_a_network_in_training_is_followed_as_it_is_now(run: Path) -> None:
    encoder = load_encoder(run).train()
    metadata = encoder.metadata
    assert metadata is not None
    follower = OnlineKNN(("demo:200",), batch_size=50, seed=0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.random.get_rng_state()
    first = follower.accuracy(encoder, metadata)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert follower.accuracy(encoder, metadata) == first > 0.11
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    assert follower.accuracy(encoder, metadata) == pytest.approx(
        0.1, abs=0.01
    )  # ten classes of equal size
