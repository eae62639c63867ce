from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.methods.base import Predictions
from ssltool.visualizing.sampling import spread_indices, with_training_images


def test_training_images_become_columns_and_the_unreadable_is_gray(tmp_path: Path) -> None:
    for name, shade in (("a.png", 10), ("b.png", 20)):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / name)
    (tmp_path / "c.png").write_text("no image")
    source, images = open_source((str(tmp_path),)), {"image": torch.zeros(3, 3, 8, 8)}
    predictions = Predictions(images, ["", "", ""], {"nearest": torch.tensor([1, 2, 0])})
    shown = with_training_images(predictions, source, 8).images
    assert list(shown) == ["image", "nearest"]
    assert [int(image[0, 0, 0]) for image in shown["nearest"]] == [20, 128, 10]
    plain = Predictions(images, ["", "", ""])
    assert with_training_images(plain, source, 8) is plain


def test_images_are_evenly_spread_and_flat_ones_skipped() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (10, 3, 8, 8), generator=generator, dtype=torch.uint8)
    assert spread_indices(images, 4).tolist() == [0, 3, 6, 9]
    assert spread_indices(images, 99).tolist() == list(range(10))
    images[3:7] = 128
    assert spread_indices(images, 3).tolist() == [0, 2, 9]
    assert spread_indices(images, 8).tolist() == [0, 1, 2, 3, 5, 6, 7, 9]  # too few with contrast
