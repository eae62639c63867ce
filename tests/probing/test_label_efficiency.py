from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssltool.encoders.weights import load_encoder
from ssltool.errors import UsageError
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.label_efficiency import LabelBudget


@pytest.mark.slow
def test_fractions_of_the_labels_are_a_table_and_a_curve(
    cpc_run: Path, probed: Any, tmp_path: Path
) -> None:
    options = {"kind": ("linear", "finetune"), "label_fractions": (0.5, 1.0), "to": tmp_path}
    record = probed(cpc_run, **options, finetune_images=64)
    points = {(r.source.kind, r.protocol, r.fraction): r for r in record.label_efficiency}
    assert set(points) == {
        (kind, protocol, fraction)
        for kind in ("pretrained", "random_init")
        for protocol in ("linear", "finetune")
        for fraction in (0.5, 1.0)
    }
    assert {r.images for r in record.label_efficiency} == {20, 40}
    assert {r.curve() for r in record.label_efficiency} == {
        "cpc, frozen",
        "random init, frozen",
        "cpc, fine-tuned",
        "trained from scratch",
    }
    # With all labels the linear probe is the one of the main table.
    pooled = next(row for row in record.rows if row.source.kind == "pretrained")
    assert points["pretrained", "linear", 1.0].accuracy == pooled.accuracy["linear"]
    assert (tmp_path / "probe-labels.png").read_bytes()[:4] == b"\x89PNG"
    assert str(tmp_path / "probe-labels.png") in record.plots
    table = record.tables()[-1]
    assert [row[:2] for row in table.rows] == [("0.5", "20"), ("1", "40")]
    assert all(all(row) for row in table.rows)


@pytest.mark.slow
def test_shots_with_repeats_have_a_standard_deviation(cpc_run: Path, probed: Any) -> None:
    options = {"kind": ("linear",), "shots": (1, 3), "repeats": 2, "baselines": False}
    record = probed(cpc_run, **options, scratch=True, finetune_images=32)
    *frozen, scratch = record.label_efficiency
    assert [(r.shots, r.images, r.repeats) for r in frozen] == [(1, 10, 2), (3, 30, 2)]
    assert all(r.std is not None and r.std >= 0 for r in frozen)
    assert (scratch.protocol, scratch.source.kind) == ("scratch", "random_init")
    assert scratch.fraction == 1.0
    training = load_encoder(cpc_run).metadata.training
    assert scratch.images == min(40, training.steps * training.batch_size)


@pytest.mark.slow
def test_fine_tuning_alone_extracts_no_features(jigsaw_run: Path, probed: Any) -> None:
    record = probed(jigsaw_run, kind=("finetune",), finetune_images=16)
    assert {row.images for row in record.label_efficiency} == {16}  # of 40
    assert record.rows == ()
    assert record.health == ()
    assert record.plots == ()
    points = [(r.source.kind, r.fraction) for r in record.label_efficiency]
    assert points == [("pretrained", 1.0), ("random_init", 1.0)]


def test_labels_are_given_to_images_that_can_be_read(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (9, 9), (i * 9, ord(name), 0)).save(tmp_path / name / f"{i}.bmp")
    for name in ("a/1", "a/2", "b/3", "c/0"):
        (tmp_path / f"{name}.bmp").write_bytes(b"BM broken" + name.encode())
    data = LabeledImages((str(tmp_path),), workers=0)
    for _ in data.batches("train", 16):
        pass
    readable = data.readable("train").tolist()
    assert len(readable) == data.count("train") == data.total("train") - len(data.skipped)
    for seed in range(20):
        one = LabelBudget(shots=1).subset(data, seed)
        assert sorted(data.labels("train", one).tolist()) == [0, 1, 2]
        every = LabelBudget(fraction=1.0).subset(data, seed)
        assert sorted(every.tolist()) == readable


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"label_fractions": "0,2"}, "--label-fractions"),
        ({"shots": "0"}, "--shots"),
        ({"kind": "linaer"}, "--kind"),
    ],
)
def test_invalid_options_name_their_flag(
    jigsaw_run: Path, probed: Any, options: dict[str, str], flag: str
) -> None:
    with pytest.raises(UsageError, match=flag):
        probed(jigsaw_run, **options)
