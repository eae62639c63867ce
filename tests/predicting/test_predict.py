"""``ssltool predict`` from runs and exported folders, on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

import ssltool
from ssltool.cli import run as command
from ssltool.errors import DataError, UsageError, WeightsError
from ssltool.exporting.export import export
from ssltool.ops.lab import lightness
from ssltool.predicting.options import ColorizeOptions, InpaintOptions
from ssltool.predicting.predict import predict
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain

pytestmark = [pytest.mark.slow]
QUIET = Console(quiet=True)


def pretrained(folder: Path, method: str, **options: Any) -> Path:
    given = {"data": ("demo:16",), "image_size": 32, "batch_size": 4, "steps": 2, "out": folder}
    given |= {"workers": 0, "precision": "fp32", **options}
    pretrain(RunConfig.merged(method, given), console=QUIET)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "colorize": pretrained(root / "colorization", "colorization"),
        "inpaint": pretrained(root / "region", "context-encoder"),
        "center": pretrained(root / "center", "context-encoder", mask="center", adversarial=0.1),
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five images of other sizes than the network's, mostly not square."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    files = []
    for number, (width, height) in enumerate([(60, 40), (40, 61), (32, 32), (20, 90), (64, 64)]):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        files.append(folder / f"{number}.png")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


def options(kind: str, files: list[Path], weights: Path, to: Path, **given: Any) -> Any:
    model = ColorizeOptions if kind == "colorize" else InpaintOptions
    return model.checked(files=files, weights=weights, to=to, **given)


def pixels(file: Path) -> Any:
    with Image.open(file) as image:
        assert image.mode == "RGB"
        return np.array(image).astype(int)


@pytest.mark.ci
def test_colorized_images_keep_their_size_and_lightness(
    runs: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    result = predict(options("colorize", images, runs["colorize"], tmp_path), console=QUIET)
    assert result.files == tuple(tmp_path / f"{i}.png" for i in range(5))
    assert not result.skipped
    for before, after in zip(map(pixels, images), map(pixels, result.files), strict=True):
        assert before.shape == after.shape
        inside = ((after > 0) & (after < 255)).all(-1)
        light = [lightness(torch.from_numpy(p).byte().permute(2, 0, 1))[0] for p in (before, after)]
        assert (light[0] - light[1]).abs()[torch.from_numpy(inside)].max() < 0.6


@pytest.mark.parametrize("kind", ["inpaint", "center"])
@pytest.mark.parametrize("region", [{}, {"box": (3, 5, 11, 14)}])
def test_only_the_region_changes(
    runs: dict[str, Path], images: list[Path], tmp_path: Path, kind: str, region: dict[str, Any]
) -> None:
    result = predict(options("inpaint", images, runs[kind], tmp_path, **region), console=QUIET)
    for before, after in zip(map(pixels, images), map(pixels, result.files), strict=True):
        height, width = before.shape[:2]
        changed = (before != after).any(-1)
        rows, columns = np.nonzero(changed)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if region:
            assert left >= 3
            assert top >= 5
            assert right <= 14
            assert bottom <= 19
        else:
            assert left >= width // 4
            assert top >= height // 4
            assert right <= width - width // 4
            assert bottom <= height - height // 4
        assert changed[top:bottom, left:right].mean() > 0.9


def test_a_mask_is_painted_and_hidden(
    runs: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    levels = np.zeros((40, 60), np.uint8)
    levels[10:20, 15:40] = levels[25:30, 50:60] = 255
    Image.fromarray(levels).save(tmp_path / "mask.png")
    one, other = images[0], tmp_path / "other.png"
    hidden = pixels(one).astype(np.uint8)
    hidden[levels > 0] = 7
    Image.fromarray(hidden).save(other)
    given = {"mask_file": tmp_path / "mask.png"}
    result = predict(
        options("inpaint", [one, other], runs["inpaint"], tmp_path / "to", **given), console=QUIET
    )
    first, second = map(pixels, result.files)
    assert (first == second).all()  # what was hidden had no influence
    assert (first == pixels(one))[levels == 0].all()
    Image.fromarray(levels * 0).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="no light pixels"):
        predict(options("inpaint", [one], runs["inpaint"], tmp_path / "b", **given), console=QUIET)


@pytest.mark.parametrize("kind", ["colorize", "inpaint", "center"])
def test_an_export_gives_the_same_bytes_as_its_run(
    runs: dict[str, Path], images: list[Path], tmp_path: Path, kind: str
) -> None:
    what = "colorize" if kind == "colorize" else "inpaint"
    export(runs[kind], tmp_path / "exported", with_head=True)
    export(runs[kind], tmp_path / "one.safetensors", with_head=True)
    assert f"ssltool predict {what}" in (tmp_path / "exported" / "README.md").read_text()
    file = tmp_path / "exported" / "encoder.task.safetensors"
    assert file.read_bytes() == (tmp_path / "one.task.safetensors").read_bytes()
    with safe_open(file, "pt") as opened:
        assert str(tmp_path.parent) not in json.dumps(opened.metadata())
    sources = [runs[kind], tmp_path / "exported", tmp_path / "one.safetensors", file]
    made = [
        predict(options(what, images, each, tmp_path / str(i)), console=QUIET)
        for i, each in enumerate(sources)
    ]
    for others in zip(*(result.files for result in made), strict=True):
        assert len({other.read_bytes() for other in others}) == 1


def test_batches_change_nothing(runs: dict[str, Path], images: list[Path], tmp_path: Path) -> None:
    for size in (1, 16):
        given = {"batch_size": size}
        where = tmp_path / str(size)
        predict(options("inpaint", images, runs["inpaint"], where, **given), console=QUIET)
    for file in images:
        single, joined = (pixels(tmp_path / size / file.name) for size in ("1", "16"))
        assert np.abs(single - joined).max() <= 1


@pytest.mark.ci
def test_unreadable_images_are_named_and_the_rest_is_done(
    runs: dict[str, Path],
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    arguments = ["predict", "inpaint", "--weights", runs["inpaint"], images[0], broken, images[2]]
    arguments += ["--to", tmp_path / "to", "--json", "--box", "30,20,20,20"]
    assert command([str(each) for each in arguments]) == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["files"] == [str(tmp_path / "to" / "0.png")]
    assert list(document["skipped"]) == [str(broken), str(images[2])]
    assert "the box goes beyond" in document["skipped"][str(images[2])]
    assert "2 of 3 images could not be used" in shown.err
    assert shown.err.count("error: ") == 1
    assert command([str(each) for each in arguments]) == 2  # they are there
    assert "--overwrite" in capsys.readouterr().err
    assert command([str(each) for each in [*arguments, "--overwrite"]]) == 1


def test_models_of_values_are_refused(images: list[Path], tmp_path: Path) -> None:
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(40, 40)))
    given = {"data": (str(tmp_path),), "channels": 1, "value_range": "-2,2", "steps": 1}
    run = pretrained(tmp_path / "run", "context-encoder", **given)
    with pytest.raises(UsageError, match="images read as they are, with 1 channel: "):
        ssltool.predict("inpaint", run, images, tmp_path / "to")
    with pytest.raises(UsageError, match="images read as they are"):
        export(run, tmp_path / "exported", with_head=True)


def test_the_mask_is_not_replaced(tmp_path: Path) -> None:
    file, mask = tmp_path / "in" / "a.png", tmp_path / "a.png"
    with pytest.raises(UsageError, match="the mask would be replaced"):
        InpaintOptions.checked(
            files=[file], weights=tmp_path, to=tmp_path, mask_file=mask, overwrite=True
        )


def test_weights_that_cannot_are_refused(
    runs: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is of context-encoder, which cannot colorize"):
        ssltool.predict("colorize", runs["inpaint"], images, tmp_path)
    export(runs["colorize"], tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="without the head of its task"):
        ssltool.predict("colorize", tmp_path / "a.safetensors", images, tmp_path / "to")
    with pytest.raises(UsageError, match="name the run folder"):
        export(tmp_path / "a.safetensors", tmp_path / "b.safetensors", with_head=True)
    export(runs["colorize"], tmp_path / "c.safetensors", with_head=True)
    file = tmp_path / "c.task.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="with-head"):
        ssltool.predict("colorize", tmp_path / "c.safetensors", images, tmp_path / "to")
