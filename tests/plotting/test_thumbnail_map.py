from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssltool.plotting.thumbnail_map import class_color, save_map


def make_images(count: int, shade: int = 128) -> torch.Tensor:
    return torch.full((count, 3, 8, 8), shade, dtype=torch.uint8)


def pixels(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(2**24)
    assert found is not None
    return {(color[0], color[1], color[2]) for _, color in found if isinstance(color, tuple)}


def test_images_are_framed_in_the_colors_of_their_classes(tmp_path: Path) -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    path = save_map(
        points,
        make_images(3),
        tmp_path / "a.png",
        labels=[0, 1, 1],
        classes=["cat", "dog"],
        title="a map",
    )
    colors = pixels(path)
    assert {class_color(0, 2), class_color(1, 2), (128, 128, 128)} <= colors


def test_without_classes_frames_are_plain(tmp_path: Path) -> None:
    path = save_map(
        np.random.default_rng(0).normal(size=(5, 2)), make_images(5), tmp_path / "a.png"
    )
    assert class_color(0, 2) not in pixels(path)
    assert (128, 128, 128) in pixels(path)


def test_a_image_that_would_hide_another_is_a_dot(tmp_path: Path) -> None:
    points = np.array([[0.0, 0.0], [0.01, 0.0], [1.0, 1.0]])
    shades = torch.stack(
        [torch.full((3, 8, 8), shade, dtype=torch.uint8) for shade in (10, 60, 90)]
    )
    found = pixels(save_map(points, shades, tmp_path / "a.png"))
    assert (90, 90, 90) in found
    assert ((10, 10, 10) in found) != ((60, 60, 60) in found)


def test_points_in_one_place_can_be_drawn(tmp_path: Path) -> None:
    assert (128, 128, 128) in pixels(save_map(np.zeros((3, 2)), make_images(3), tmp_path / "a.png"))


@pytest.mark.parametrize("classes", [2, 10, 20, 100])
def test_classes_have_colors_of_their_own(classes: int) -> None:
    colors = {class_color(number, classes) for number in range(classes)}
    assert len(colors) == classes
