from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ssltool.errors import DataError, UsageError
from ssltool.methods.find import find_method
from ssltool.nn.weights import load_encoder
from ssltool.workflows.options import combine
from ssltool.workflows.pretrain import pretrain
from ssltool.workflows.probe import Follower, ProbeOptions, probe

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    given = {"data": ("demo:16",), "image_size": 32, "batch_size": 4, "steps": 2, "workers": 0, "out": out}
    pretrain(combine("jigsaw", find_method("jigsaw"), {**given, "precision": "fp32"}), console=QUIET)
    return out


def probed(run: Path, **changes: Any) -> dict[str, Any]:
    values = {"weights": run, "data": ("demo:200",), "test_data": ("demo-test:50",), "workers": 0}
    values |= {"grid_numbers": 128, **changes}
    return probe(ProbeOptions.checked(**values), QUIET)


def test_every_stage_is_probed_beside_random_weights_and_pixels(run: Path) -> None:
    result = probed(run)
    stages = ["pooled", "stem", "layer1", "layer2", "layer3", "layer4"]
    for name in ("jigsaw", "random weights"):
        rows = [row for row in result["rows"] if row["features"] == name]
        assert [row["stage"] for row in rows if not row["stage"].endswith("grid")] == stages
        assert {"linear", "knn20", "knn200"} <= set(rows[0])
    pixels = result["rows"][-1]
    assert (pixels["features"], pixels["numbers"]) == ("pixels", 3072)
    assert (result["train_pictures"], result["test_pictures"], len(result["classes"])) == (200, 50, 10)
    best = result["rows"][result["best"]]
    assert best["features"] == "jigsaw"
    assert best["linear"] == max(row["linear"] for row in result["rows"] if row["features"] == "jigsaw")


def test_the_same_command_gives_the_same_document(run: Path) -> None:
    changes = {"kinds": ("linear", "knn")}
    assert json.dumps(probed(run, **changes)) == json.dumps(probed(run, **changes))


def test_kinds_and_baselines_can_be_left_out(run: Path) -> None:
    rows = probed(run, kinds=("knn",), baselines=False)["rows"]
    assert [(row["features"], row["stage"]) for row in rows] == [("jigsaw", "pooled")]
    assert "linear" not in rows[0]


def test_without_test_pictures_a_fifth_is_held_out(run: Path) -> None:
    result = probed(run, test_data=(), kinds=("knn",), baselines=False)
    assert (result["train_pictures"], result["test_pictures"]) == (160, 40)


def test_unlabelled_pictures_and_unknown_classes_are_refused(run: Path, tmp_path: Path) -> None:
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
    given = {"data": ("demo:16",), "image_size": 20, "batch_size": 4, "steps": 2, "workers": 0, "out": out}
    given |= {"directions": 1, "precision": "fp32", "backbone": "resnet20"}
    pretrain(combine("cpc", find_method("cpc"), given), console=QUIET)
    return out


def test_an_encoder_of_patches_is_read_in_both_ways(cpc_run: Path) -> None:
    result = probed(cpc_run, data=("demo:40",), test_data=("demo-test:20",), kinds=("linear",))
    rows = {(row["features"], row["stage"]): row for row in result["rows"]}
    names = ["cpc (whole)", "cpc (patch)", "random weights (whole)", "random weights (patch)"]
    assert list(rows) == [*((name, "pooled") for name in names), ("pixels", "pixels")]
    assert result["rows"][result["best"]]["features"] in names[:2]
    assert result["rows"][result["best"]]["linear"] == max(rows[name, "pooled"]["linear"] for name in names[:2])


def test_shares_of_the_labels_are_a_table_and_a_curve(cpc_run: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data": ("demo:40",), "test_data": ("demo-test:20",), "kinds": ("linear", "finetune"), "labels": (0.5, 1.0),
        "finetune_pictures": 64, "to": tmp_path / "curve.png",
    }  # fmt: skip
    result = probed(cpc_run, **changes)
    found = {(row["features"], row["how"], row["share"]): row for row in result["labels"]}
    names = ("cpc", "random weights")
    expected = {(name, how, share) for name in names for how in ("linear", "finetune") for share in (0.5, 1.0)}
    assert set(found) == expected
    assert {row["pictures"] for row in result["labels"]} == {20, 40}
    assert all(0 <= row["accuracy"] <= 100 for row in result["labels"])
    # With all labels the frozen probe is the one of the main table.
    pooled = next(row for row in result["rows"] if row["features"] == "cpc")
    assert found["cpc", "linear", 1.0]["accuracy"] == pytest.approx(pooled["linear"], abs=5.1)
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert result["chart"] == str(tmp_path / "curve.png")
    assert json.dumps(probed(cpc_run, **changes)) == json.dumps(result)


def test_fine_tuning_alone_reads_no_features(run: Path) -> None:
    few = {"data": ("demo:40",), "test_data": ("demo-test:20",)}
    result = probed(run, **few, kinds=("finetune",), finetune_pictures=16)
    assert result["rows"] == []
    assert [(row["features"], row["share"]) for row in result["labels"]] == [("jigsaw", 1.0), ("random weights", 1.0)]
    assert "chart" not in result


def test_shares_outside_0_and_1_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="--labels"):
        probed(run, labels=(0.0, 2.0))


def test_a_network_in_training_is_followed_as_it_is_now(run: Path) -> None:
    encoder = load_encoder(run).train()
    card = encoder.card
    assert card is not None
    follower = Follower(("demo:300",), batch_size=50, seed=0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.random.get_rng_state()
    first = follower.accuracy(encoder, card)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert follower.accuracy(encoder, card) == first > 0.11
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    assert follower.accuracy(encoder, card) == pytest.approx(0.1, abs=0.005)  # ten classes of equal size
