from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from ssltool.data.sources.registry import open_source
from ssltool.errors import UsageError, WeightsError
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.finetune import Schedule
from ssltool.probing.options import ProbeOptions
from ssltool.probing.probe import open_inputs, probe, protocol_of
from ssltool.runs.probe_record import ProbeRecord, ProbeRow

QUIET = Console(quiet=True)


def rows_of(record: ProbeRecord, kind: str) -> list[ProbeRow]:
    return [row for row in record.rows if row.source.kind == kind]


@pytest.mark.slow
@pytest.mark.ci
def test_every_stage_is_probed_beside_random_init_and_pixels(jigsaw_run: Path, probed: Any) -> None:
    record = probed(jigsaw_run, data=("demo:100",), test_data=("demo-test:50",))
    stages = ["pooled", "stem", "layer1", "layer2", "layer3", "layer4"]
    for kind in ("pretrained", "random_init"):
        rows = rows_of(record, kind)
        assert [row.stage for row in rows if not row.stage.endswith("grid")] == stages
        assert set(rows[0].accuracy) == {"linear", "knn5", "knn20", "knn200"}
        last = next(row for row in rows if row.stage == "layer4")
        same = {"stage": "pooled", "chosen": rows[0].chosen}
        assert last.model_copy(update=same) == rows[0]
    pixels, majority = record.rows[-2:]
    assert (pixels.source.kind, pixels.stage, pixels.dim) == ("pixels", "", 3072)
    assert (majority.source.kind, majority.dim) == ("majority", 0)
    assert majority.accuracy == dict.fromkeys(pixels.accuracy, 10)
    assert (record.train_images, record.test_images, len(record.classes)) == (100, 50, 10)


CHANGES: dict[str, Any] = {
    "near_duplicates": True,
    "kind": ("knn",),
    "grid_dim": 64,
    "protocol": "zhang2016",
    "baselines": False,
    "random_inits": 2,
    "knn_space": "whitened",
    "recalibrate": False,
    "seed": 1,
    "label_fractions": (0.5,),
    "shots": (1,),
    "repeats": 2,
    "finetune_images": 10,
    "recipe": "wu2018",
    "mirror": True,
    "freeze_to": ("layer1",),
    "scratch": True,
}
OF_INPUTS = {
    *("weights", "backbone", "stem", "image_size"),  # by the hash of the encoder
    *("data", "test_data", "label_file", "content_hash"),  # by that of the images
    "device",  # by the environment
}
WITHOUT_EFFECT = {"batch_size", "workers", "cache", "keep_features", "to"}


@pytest.mark.slow
@pytest.mark.ci
def test_every_option_that_changes_a_record_is_in_its_protocol(jigsaw_run: Path) -> None:
    assert {*CHANGES, *OF_INPUTS, *WITHOUT_EFFECT} == set(ProbeOptions.model_fields)
    options = ProbeOptions(weights=jigsaw_run, data=("demo:40",), workers=0)
    inputs = open_inputs(options, QUIET)
    protocols = [protocol_of(inputs, options)]
    assert protocol_of(inputs, options) == protocols[0]
    for name, value in CHANGES.items():
        other = options.model_copy(update={name: value})
        kinds = frozenset(other.kind) or inputs.kinds
        protocols.append(protocol_of(inputs._replace(kinds=kinds), other))
    assert all(a != b for a, b in combinations(protocols, 2))


@pytest.mark.slow
@pytest.mark.ci
def test_details_are_of_the_row_chosen_on_held_out_training_images(
    jigsaw_run: Path, probed: Any
) -> None:
    sizes = {"data": ("demo:100",), "test_data": ("demo-test:50",)}
    record = probed(jigsaw_run, **sizes, kind=("linear", "layers"), grid_dim=0, baselines=False)
    chosen = record.rows[record.chosen]
    own = rows_of(record, "pretrained")
    assert chosen.held_out["linear"] == max(row.held_out["linear"] for row in own)
    assert chosen in own
    assert [row for row in own if row.chosen] == [chosen]
    assert record.details.row == record.chosen
    confusion = torch.tensor(record.details.confusion)
    assert confusion.sum(1).tolist() == [5] * 10
    correct = 100 * int(confusion.diagonal().sum()) / 50
    assert correct == pytest.approx(chosen.accuracy["linear"], abs=1e-3)
    per_class = [100 * int(n) / 5 for n in confusion.diagonal()]
    assert record.details.per_class == pytest.approx(per_class)


@pytest.mark.slow
def test_the_record_and_its_plots_are_in_the_run_folder(jigsaw_run: Path, probed: Any) -> None:
    record = probed(jigsaw_run, grid_dim=0)
    assert ProbeRecord.read(jigsaw_run / "probe.json") == record
    names = [Path(plot).name for plot in record.plots]
    assert names == [
        f"probe-{name}.png" for name in ("stages", "confusion", "classes", "predictions")
    ]
    assert all(Path(plot).read_bytes()[:4] == b"\x89PNG" for plot in record.plots)
    assert [row.source.kind for row in record.health] == ["pretrained", "random_init"]
    assert 1 < record.health[0].effective_rank <= 20
    assert not record.health[0].warning


@pytest.mark.slow
def test_equal_options_give_equal_records_with_or_without_the_cache(
    jigsaw_run: Path, probed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"kind": ("linear", "knn"), "cache": tmp_path}
    first = probed(jigsaw_run, **options, keep_features=True)
    assert probed(jigsaw_run, **options) == first

    def put(*args: object, **kwargs: object) -> None:
        raise AssertionError("features are computed again")

    monkeypatch.setattr("ssltool.probing.store.FeatureStore.put", put)
    assert probed(jigsaw_run, **options, keep_features=True) == first


@pytest.mark.slow
@pytest.mark.ci
def test_svm_and_mlp(jigsaw_run: Path, probed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssltool.probing.mlp._MIN_STEPS", 50)
    options = {"kind": ("svm", "mlp"), "baselines": False, "repeats": 2}
    row = probed(jigsaw_run, data=("demo:60",), **options).rows[0]
    assert set(row.accuracy) == {"svm", "svm_map", "mlp"}
    assert set(row.std) == {"mlp"}
    assert set(row.converged) == {"svm"}
    assert row.accuracy["svm_map"] > 10
    assert row.accuracy["mlp"] > 5


@pytest.mark.slow
def test_images_of_several_classes_are_measured_by_svm(
    jigsaw_run: Path, probed: Any, multilabel: tuple[Path, Path]
) -> None:
    folder, label_file = multilabel
    options = {"data": (str(folder),), "test_data": (), "label_file": label_file}
    record = probed(jigsaw_run, **options, baselines=False)
    assert {row.stage for row in record.rows} > {"pooled", "layer1"}
    assert {name for row in record.rows for name in row.accuracy} <= {"svm", "svm_map"}
    assert record.rows[record.chosen].accuracy["svm_map"] > 60
    assert "svm_map" in record.rows[record.chosen].standard_error
    assert record.details is None
    with pytest.raises(UsageError, match="several classes each, which linear cannot use"):
        probed(jigsaw_run, **options, kind=("linear",))
    with pytest.raises(UsageError, match="which label efficiency cannot use"):
        probed(jigsaw_run, **options, shots=(1,))


def test_plain_weights_are_matched_strictly(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    tensors, path = resnet18().state_dict(), tmp_path / "plain.safetensors"
    save_file(tensors, path)
    output = io.StringIO()
    options = {
        "weights": path,
        "data": ("demo:40",),
        "test_data": ("demo-test:20",),
        "workers": 0,
        "kind": "knn",
        "baselines": False,
        "keep_features": False,
        "image_size": 32,
    }
    plain = ProbeOptions.checked(**options, backbone="resnet18")
    record = probe(plain, Console(width=300, file=output))
    assert "all 120 tensors of resnet18 matched; ignored fc.bias, fc.weight" in output.getvalue()
    assert record.method == "plain weights"
    assert not (tmp_path / "probe.json").exists()
    with pytest.raises(UsageError, match="--backbone"):
        probe(ProbeOptions.checked(**options), QUIET)
    save_file({f"module.{key}": value for key, value in tensors.items()}, path)
    with pytest.raises(WeightsError, match=r"conv1.weight is missing, module.bn1.bias is unexpect"):
        probe(plain, QUIET)


def test_a_backbone_is_refused_for_weights_that_name_theirs(jigsaw_run: Path, probed: Any) -> None:
    with pytest.raises(UsageError, match="drop the option"):
        probed(jigsaw_run, backbone="resnet18")


def test_kind_and_baselines_can_be_narrowed(jigsaw_run: Path, probed: Any) -> None:
    rows = probed(jigsaw_run, kind=("knn",), baselines=False).rows
    assert [(row.source.label(), row.stage) for row in rows] == [("jigsaw", "pooled")]
    assert "linear" not in rows[0].accuracy


def test_a_source_is_probed_in_place_of_paths(jigsaw_run: Path, probed: Any) -> None:
    data = LabeledImages(open_source(("demo:40",)), open_source(("demo-test:20",)), workers=0)
    options = ProbeOptions.checked(
        weights=jigsaw_run, data=(), kind="knn", baselines=False, keep_features=False
    )
    expected = probed(jigsaw_run, kind=("knn",), baselines=False)
    assert probe(options, QUIET, data=data).rows == expected.rows


@pytest.mark.slow
def test_an_encoder_of_patches_is_probed_on_patches_too(cpc_run: Path, probed: Any) -> None:
    record = probed(cpc_run, kind=("linear",))
    sources = [(row.source.kind, row.source.variant, row.stage) for row in record.rows]
    assert sources == [
        ("pretrained", "image", "pooled"),
        ("pretrained", "patches", "pooled"),
        ("random_init", "image", "pooled"),
        ("random_init", "patches", "pooled"),
        ("pixels", "image", ""),
        ("majority", "image", ""),
    ]
    assert [row.source.label() for row in record.rows[:2]] == ["cpc", "cpc (patches)"]
    own = [row.held_out["linear"] for row in record.rows[:2]]
    assert own[record.chosen] == max(own)


@pytest.mark.slow
def test_the_notebook_display_is_escaped_html(cpc_run: Path, probed: Any) -> None:
    record = probed(cpc_run, kind=("knn",), baselines=False)
    source = record.rows[0].source.model_copy(update={"method": "<b>x</b>"})
    evil = record.rows[0].model_copy(update={"source": source})
    html = record.model_copy(update={"rows": (evil,)})._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>" not in html
    assert html.count("<table>") == html.count("</table>") == 2
    assert f'<td style="text-align: right">{record.rows[0].score("knn20")}</td>' in html
    assert ProbeRecord.model_validate(record.to_dict()) == record


def test_the_device_is_checked(jigsaw_run: Path, probed: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UsageError, match="--device cuda"):
        probed(jigsaw_run, device="cuda")


@pytest.mark.slow
def test_the_protocol_of_the_colorization_paper(jigsaw_run: Path, probed: Any) -> None:
    """About 9,600 dimensions a stage, one weight decay."""
    options = {"kind": ("layers",), "baselines": False, "grid_dim": 512}
    with pytest.raises(UsageError, match="--grid-dim: no effect with --protocol zhang2016"):
        probed(jigsaw_run, **options, protocol="zhang2016")
    defaults = {"weights": jigsaw_run, "data": ("demo:40",), "test_data": ("demo-test:20",)}
    options = {"kind": ("layers",), "baselines": False, "workers": 0, "keep_features": False}
    record = probe(ProbeOptions.checked(**defaults, **options, protocol="zhang2016"), QUIET)
    grids = {row.stage: row.dim for row in record.rows if row.stage.endswith("grid")}
    # 32, 32, 64, 128 and 256 channels: sides 17, 17, 12, 8 and 6.
    assert list(grids.values()) == [32 * 289, 32 * 289, 64 * 144, 128 * 64, 256 * 36]
    assert {row.weight_decay for row in record.rows} == {5e-4}
    assert (record.protocol.paper, record.protocol.grid_dim) == ("zhang2016", 9600)


def test_a_recipe_is_one_of_fine_tuning(jigsaw_run: Path, probed: Any) -> None:
    with pytest.raises(UsageError, match="type --kind finetune"):
        probed(jigsaw_run, recipe="wu2018", kind=("linear",))
    with pytest.raises(UsageError, match="--finetune-images: no effect with --recipe"):
        probed(jigsaw_run, recipe="wu2018", kind=("finetune",), finetune_images=100)


def test_the_recipe_of_wu_et_al_has_its_own_points(
    jigsaw_run: Path, probed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def accuracy(
        self: object, network: object, indices: Any, schedule: Any, *rest: object
    ) -> float:
        del rest
        seen.append((len(indices), schedule))
        return 50.0

    monkeypatch.setattr("ssltool.probing.label_efficiency.FineTuner.accuracy", accuracy)
    options = {"kind": ("finetune",), "recipe": "wu2018"}
    rows = probed(jigsaw_run, **options).label_efficiency
    assert {row.fraction for row in rows} == {0.01, 0.02, 0.04, 0.1, 0.2}
    assert {row.source.kind for row in rows} == {"pretrained", "random_init"}
    assert all(schedule == Schedule.wu2018(n, mirror=False) for n, schedule in seen)
    rows = probed(jigsaw_run, **options, shots=(1,)).label_efficiency
    assert {row.shots for row in rows} == {1}


def test_kinds_and_stages_that_do_not_suit_the_weights(jigsaw_run: Path, probed: Any) -> None:
    with pytest.raises(UsageError, match="--freeze-to: no effect without --kind finetune"):
        probed(jigsaw_run, kind=("linear",), freeze_to=("layer1",))
    with pytest.raises(UsageError, match="unknown stage of resnet10_w32 'layer9'"):
        probed(jigsaw_run, kind=("finetune",), freeze_to=("layer9",))
    with pytest.raises(UsageError, match=r"was trained on whole images.*type --kind linear"):
        probed(jigsaw_run, kind=("patch_linear",))


def test_a_frozen_prefix_has_its_own_rows(
    jigsaw_run: Path, probed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def accuracy(self: object, *given: Any) -> float:
        seen.append(given[-1])
        return 50.0

    monkeypatch.setattr("ssltool.probing.label_efficiency.FineTuner.accuracy", accuracy)
    record = probed(jigsaw_run, kind=("finetune",), freeze_to=("stem", "layer2"))
    curves = [row.curve() for row in record.label_efficiency]
    assert curves == [
        "jigsaw, frozen to stem",
        "random init, frozen to stem",
        "jigsaw, frozen to layer2",
        "random init, frozen to layer2",
    ]
    assert seen == ["stem", "stem", "layer2", "layer2"]
    assert record.protocol.freeze_to == ("stem", "layer2")
