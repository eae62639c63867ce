from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssltool.errors import CheckpointError
from ssltool.runs.probe_record import FeatureSource, LabelRow, ProbeProtocol, ProbeRecord, ProbeRow
from ssltool.runs.tables import Table

SOURCE = FeatureSource(kind="pretrained", method="jigsaw", network="resnet20, small stem")
PROTOCOL = ProbeProtocol(
    encoder="0" * 64,
    data=("a", "b", "c"),
    kind=("linear",),
    image_size=32,
    grid_dim=0,
    recalibrate=True,
    baselines=False,
    random_inits=3,
    knn_space="cosine",
    near_duplicates=False,
    mirror=False,
    finetune_images=12_800,
    scratch=False,
    label_fractions=(),
    shots=(),
    repeats=1,
    seed=0,
    rules={},
    environment={},
)
RECORD = ProbeRecord(
    weights="run/encoder.safetensors",
    method="jigsaw",
    backbone="resnet20",
    network="resnet20, small stem",
    steps=4,
    classes=("cat", "dog"),
    train_images=8,
    test_images=2,
    overlap=0,
    skipped={},
    notes=(),
    rows=(ProbeRow(source=SOURCE, stage="pooled", dim=64, accuracy={"linear": 50.0}),),
    chosen=0,
    details=None,
    health=(),
    label_efficiency=(),
    plots=(),
    protocol=PROTOCOL,
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "probe.json")
    assert ProbeRecord.read(tmp_path / "probe.json") == RECORD


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["rows", 0, "accuracy", "linear"], 101, "rows.0.accuracy.linear"),
        (["rows", 0, "accuracy", "guess"], 1, "rows.0.accuracy.guess"),
        (["rows", 0, "source", "kind"], "jigsaw", "rows.0.source.kind"),
        (["mood"], "good", "mood"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(
    tmp_path: Path, path: list[str | int], value: object, named: str
) -> None:
    document = RECORD.to_dict()
    part = document
    for key in path[:-1]:
        part = part[key]  # type: ignore[index]
    part[path[-1]] = value  # type: ignore[index]
    (tmp_path / "probe.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"probe.json is damaged, {named}") as error:
        ProbeRecord.read(tmp_path / "probe.json")
    assert "\n" not in str(error.value)


def test_sources_are_labeled_by_kind_and_variant() -> None:
    patches = SOURCE.model_copy(update={"variant": "patches"})
    assert SOURCE.label() == "jigsaw"
    assert patches.label() == "jigsaw (patches)"
    assert patches.label("run-1") == "run-1 (patches)"
    assert FeatureSource(kind="random_init").label() == "random init"


def test_curves_of_long_and_short_training_from_scratch_differ() -> None:
    source = FeatureSource(kind="random_init")
    point = {
        "source": source,
        "fraction": 1.0,
        "images": 8,
        "accuracy": 50.0,
        "standard_error": 1.5,
    }
    short = LabelRow(protocol="finetune", **point)
    long = LabelRow(protocol="scratch", **point, std=1.2, repeats=2)
    record = RECORD.model_copy(update={"label_efficiency": (short, long)})
    table = record.tables()[-1]
    assert table.columns[2:] == ("trained from scratch", "trained from scratch, pretraining budget")
    assert table.rows == [("1", "8", "50.0 ± 1.5", "50.0 ± 1.5 / 1.2")]


def test_tables_are_escaped_html() -> None:
    html = Table("<title>", ("a&b", "c"), [("<i>", "1"), ("x", "2")], best=1).html()
    assert "<caption>&lt;title&gt;</caption>" in html
    assert "<th>a&amp;b</th>" in html
    assert "<td>&lt;i&gt;</td>" in html
    assert html.count("bold") == 1


def test_the_legend_says_what_was_measured_otherwise() -> None:
    row = RECORD.rows[0].model_copy(update={"accuracy": {"linear": 50.0, "knn5": 40.0}})
    plain = RECORD.model_copy(update={"rows": (row,)})
    protocol = PROTOCOL.model_copy(update={"knn_space": "whitened", "paper": "zhang2016"})
    other = plain.model_copy(update={"protocol": protocol})
    added = "; kNN among whitened features; stages as in zhang2016"
    assert other.table_legend() == plain.table_legend() + added
