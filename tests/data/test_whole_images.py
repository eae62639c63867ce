"""Reading whole images for random crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from ssltool.data.loader import TrainBatches
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source

SIZES = {"a": (90, 60), "b": (60, 90), "c": (64, 64), "d": (200, 50)}  # width, height


def pixels(width: int, height: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        Image.fromarray(pixels(width, height, seed)).save(root / f"{name}.png")
    return root


def check(source: Source) -> None:
    for index, (seed, (width, height)) in zip(range(4), enumerate(SIZES.values()), strict=True):
        square, aspect = source.read_whole(index, 40)
        assert square.shape == (40, 40, 3)
        assert aspect == pytest.approx(width / height)
        image = torch.from_numpy(pixels(width, height, seed).copy()).permute(2, 0, 1)
        expected = tvf.resize(image, [40, 40], antialias=True).permute(1, 2, 0).numpy()
        assert np.abs(square.astype(int) - expected).max() <= 2


def test_both_sides_are_resized_and_the_aspect_is_given(folder: Path, tmp_path: Path) -> None:
    check(open_source((str(folder),)))
    parts = [tmp_path / name for name in ("one", "two")]
    for part, names in zip(parts, ("ab", "cd"), strict=True):
        part.mkdir()
        for name in names:
            (part / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    check(open_source(tuple(map(str, parts))))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_carry_the_aspects_cached_or_not(folder: Path, workers: int) -> None:
    source = open_source((str(folder),))
    expected = {i: w / h for i, (w, h) in enumerate(SIZES.values())}
    for cache in (0, 2**24):
        with TrainBatches(
            source, size=40, batch_size=4, seed=0, workers=workers, cache_bytes=cache, whole=True
        ) as batches:
            stream = batches.from_step(0)
            for _ in range(3):
                batch = next(stream)
                assert batch.aspects is not None
                found = dict(zip(batch.indices.tolist(), batch.aspects.tolist(), strict=True))
                assert found == pytest.approx(expected)
    with TrainBatches(source, size=40, batch_size=4, seed=0, workers=0) as batches:
        assert next(batches.from_step(0)).aspects is None


def test_square_images_are_the_same_in_both_framings(folder: Path) -> None:
    source = open_source((str(folder),))
    assert np.array_equal(source.read_whole(2, 32)[0], source.read(2, 32))
