from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.methods.base import Nearest, Predictions
from ssltool.plotting.sheet import Column, Sheet
from ssltool.visualizing.sampling import RIGHT, WRONG, spread_indices, with_training_images


def test_training_images_become_columns_and_the_unreadable_is_gray(tmp_path: Path) -> None:
    for name, shade in (("x/a.png", 10), ("y/b.png", 20)):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / name)
    (tmp_path / "y" / "c.png").write_text("no image")
    source = open_source((str(tmp_path),))
    sheet = Sheet({"query": Column(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))})
    nearest = Nearest(torch.tensor([[1], [2], [0]]), torch.tensor([[0.9], [0.5], [0.1]]))
    queries = torch.tensor([0, 1, 99])
    shown = with_training_images(Predictions(sheet, nearest), source, 8, queries)
    assert list(shown.columns) == ["query", "nearest 1"]
    column = shown.columns["nearest 1"]
    assert [int(image[0, 0, 0]) for image in column.images if image is not None] == [20, 128, 10]
    assert list(column.labels) == ["y\n0.90", "y\n0.50", "x\n0.10"]
    assert [[mark.key for mark in marks] for marks in column.marks] == [[WRONG], [RIGHT], []]
    assert with_training_images(Predictions(sheet), source, 8, queries) is sheet


def test_images_are_evenly_spread_and_flat_ones_skipped() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (10, 3, 8, 8), generator=generator, dtype=torch.uint8)
    assert spread_indices(images, 4).tolist() == [0, 3, 6, 9]
    assert spread_indices(images, 99).tolist() == list(range(10))
    images[3:7] = 128
    assert spread_indices(images, 3).tolist() == [0, 2, 9]
    assert spread_indices(images, 8).tolist() == [0, 1, 2, 3, 5, 6, 7, 9]  # too few with contrast
