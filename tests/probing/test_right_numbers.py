"""Whole probes of data on which a careless probe is wrong without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe, save_encoder
from ssltool.errors import DataError, UsageError
from ssltool.probing.compare import compare
from ssltool.probing.measures import binomial_error, choice
from ssltool.probing.options import CompareOptions, ProbeOptions
from ssltool.probing.probe import probe
from ssltool.runs.probe_record import FeatureSource, ProbeRecord, ProbeRow

SIDE = 12
RED, BLUE = (200, 60, 60), (60, 60, 200)


def weights(path: Path, image_size: int = SIDE, mean: float = 0.5) -> Path:
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", image_size=image_size).eval()
    given = {"mean": (mean,) * 3, "std": (0.25,) * 3}
    metadata = describe(encoder, method="npid", color_space="rgb", image_size=image_size, **given)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, metadata, path)
    return path


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("w") / "w.safetensors")


def paint(path: Path, color: tuple[int, int, int], seed: int, strength: float = 0.75) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise * (1 - strength) + np.array(color) * strength
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def two_colors(root: Path, count: int = 8, seed: int = 0, *, swapped: bool = False) -> Path:
    for number, name in enumerate("ab"):
        for i in range(count):
            color = (RED, BLUE)[number ^ swapped]
            paint(root / name / f"{i}.png", color, 1000 * seed + 100 * number + i)
    return root


def probed(encoder_file: Path, data: Path, test: Path | None = None, **options: object):
    values = {"kind": ("linear", "knn"), "baselines": False, "keep_features": False, "workers": 0}
    asked = ProbeOptions.checked(
        weights=encoder_file,
        data=(str(data),),
        test_data=(str(test),) if test else (),
        **{**values, **options},
    )
    return probe(asked, Console(quiet=True))


def test_test_images_of_the_same_names_are_read(encoder_file: Path, tmp_path: Path) -> None:
    train = two_colors(tmp_path / "d" / "train")
    test = two_colors(tmp_path / "d" / "test", seed=1, swapped=True)
    record = probed(encoder_file, train, test, keep_features=True, cache=tmp_path / "cache")
    assert record.rows[0].accuracy["knn5"] < 30  # the colors are swapped
    assert record.rows[0].accuracy["linear"] < 30


def test_images_that_were_trained_on_are_refused_or_counted(
    encoder_file: Path, tmp_path: Path
) -> None:
    train = two_colors(tmp_path / "train")
    shutil.copytree(train, tmp_path / "copy")
    with pytest.raises(DataError, match="all 16 test images are the same as training images"):
        probed(encoder_file, train, tmp_path / "copy")
    test = two_colors(tmp_path / "test", seed=1)
    with Image.open(train / "a" / "0.png") as image:
        image.save(test / "a" / "another.bmp")  # the same pixels in another file
    record = probed(encoder_file, train, test)
    assert (record.overlap, record.contradicted) == (1, 0)
    assert "1 of 17 test images are the same as a training image; the" in record.warnings()[0]
    with Image.open(train / "a" / "1.png") as image:
        image.save(test / "b" / "another.bmp")  # of another class
    record = probed(encoder_file, train, test)
    assert (record.overlap, record.contradicted) == (2, 1)
    assert "training image, 1 of them with other classes" in record.warnings()[0]


def test_a_perfect_ranking_is_not_certain(encoder_file: Path, tmp_path: Path) -> None:
    train = two_colors(tmp_path / "train")
    test = two_colors(tmp_path / "test", count=2, seed=1)
    (row,) = probed(encoder_file, train, test, kind=("svm",)).rows
    assert row.accuracy["svm_map"] == 100
    assert row.standard_error["svm_map"] == pytest.approx(binomial_error(100, 4), abs=1e-3)


def test_counts_and_the_majority_are_of_readable_images(encoder_file: Path, tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    for i in range(10):
        paint(train / "a" / f"{i}.png", RED, i)
        paint(test / "a" / f"{i}.png", RED, 100 + i)
        if i < 8:
            paint(train / "b" / f"{i}.png", BLUE, 200 + i)
        if i < 5:
            paint(test / "b" / f"{i}.png", BLUE, 300 + i)
        if i < 9:
            (test / "a" / f"{i}.png").write_bytes(b"broken")
    record = probed(encoder_file, train, test, baselines=True, random_inits=1)
    assert (record.train_images, record.test_images, len(record.skipped)) == (18, 6, 9)
    majority = next(row for row in record.rows if row.source.kind == "majority")
    assert majority.accuracy["knn5"] == pytest.approx(100 / 6, abs=1e-3)
    assert majority.standard_error["knn5"] == pytest.approx(binomial_error(100 / 6, 6), abs=1e-3)


@given(st.integers(1, 3000), st.data())
def test_no_accuracy_is_without_error(images: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, images))
    error = binomial_error(100 * correct / images, images)
    outcomes = np.repeat([100.0, 0.0], [correct, images - correct])
    plain = float(outcomes.std() / np.sqrt(images))
    assert error >= (1 - 1e-9) * binomial_error(50 / images, images) > 0
    if 0 < correct < images:
        assert error == pytest.approx(plain)


def test_what_one_test_image_cannot_tell_is_null_with_a_reason(
    encoder_file: Path, tmp_path: Path
) -> None:
    train = two_colors(tmp_path / "train")
    paint(tmp_path / "test" / "a" / "x.png", RED, 77)
    record = probed(encoder_file, train, tmp_path / "test", to=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "probe.json").read_text(), parse_constant=pytest.fail)
    (health,) = document["health"]
    assert (health["std"], health["uniformity"], health["effective_rank"]) == (None, None, None)
    assert health["reason"]
    assert record.warnings() == []
    assert ProbeRecord.read(tmp_path / "out" / "probe.json") == record


def test_a_warm_cache_gives_the_same_record(encoder_file: Path, tmp_path: Path) -> None:
    train, test = two_colors(tmp_path / "train"), two_colors(tmp_path / "test", seed=1)
    (train / "a" / "0.png").write_bytes(b"broken")
    options = {"keep_features": True, "cache": tmp_path / "cache"}
    cold = probed(encoder_file, train, test, **options, batch_size=3)
    assert probed(encoder_file, train, test, **options) == cold
    assert list(cold.skipped) == [str(train / "a" / "0.png")]


def test_an_unwritable_cache_is_said_and_gone_without(
    encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    asked = ProbeOptions.checked(
        weights=encoder_file,
        data=(str(two_colors(tmp_path / "d")),),
        kind="knn",
        baselines=False,
        cache=tmp_path / "file" / "cache",
        workers=0,
    )
    assert probe(asked, Console(stderr=True, soft_wrap=True)).rows
    assert "name another folder with --cache" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("image_size", 64), ("stem", "small")])
def test_options_of_plain_weights_are_refused_for_ours(
    encoder_file: Path, tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(UsageError, match=name.replace("_", "-")):
        probed(encoder_file, two_colors(tmp_path / "d"), **{name: value})


def row(stage: str, test: float, held_out: dict[str, float]) -> ProbeRow:
    source = FeatureSource(kind="pretrained", method="npid")
    return ProbeRow(source=source, stage=stage, dim=4, accuracy={"linear": test}, held_out=held_out)


def test_a_stage_is_not_chosen_by_its_test_accuracy() -> None:
    rows = [
        row("pooled", 99, {"linear": 50, "knn20": 80}),
        row("layer1", 10, {"linear": 60, "knn20": 20}),
        row("layer2", 90, {"linear": 60}),
    ]
    assert choice(rows) == 1  # the first of equals
    assert choice([row("pooled", 1, {"knn20": 3}), row("layer1", 0, {"knn20": 5})]) == 1
    assert choice([row("pooled", 1, {})]) == 0
    assert choice([]) is None


def test_random_inits_are_several_and_have_a_deviation(encoder_file: Path, tmp_path: Path) -> None:
    train = two_colors(tmp_path / "train")
    record = probed(encoder_file, train, baselines=True, random_inits=3)
    baseline = next(row for row in record.rows if row.source.kind == "random_init")
    assert baseline.seeds == 3
    assert set(baseline.std) == set(baseline.accuracy)
    singles = [
        next(
            row
            for row in probed(encoder_file, train, baselines=True, random_inits=1, seed=seed).rows
            if row.source.kind == "random_init"
        )
        for seed in (0,)
    ]
    assert singles[0].seeds == 1
    assert singles[0].std == {}


def test_baselines_of_different_encoders_are_not_merged(tmp_path: Path) -> None:
    files = [
        weights(tmp_path / "small.safetensors"),
        weights(tmp_path / "large.safetensors", image_size=20),
        weights(tmp_path / "other.safetensors", mean=0.3),
    ]
    options = CompareOptions.checked(
        runs=tuple(files),
        data=(str(two_colors(tmp_path / "d")),),
        kind="knn",
        random_inits=1,
        keep_features=False,
        workers=0,
        sort="knn5",
    )
    rows = compare(options, Console(quiet=True)).rows
    assert sum(row.source.kind == "random_init" for row in rows) == 3
    assert len({row.name for row in rows}) == len(rows)
