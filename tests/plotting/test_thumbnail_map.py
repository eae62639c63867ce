from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from made_layout import on_page, overlaps, smallest_text
from matplotlib.offsetbox import AnnotationBbox

from ssltool.plotting.thumbnail_map import class_color, thinned, thumbnail_map


def make_images(count: int) -> torch.Tensor:
    return torch.full((count, 3, 8, 8), 128, dtype=torch.uint8)


def scattered(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(0).normal(size=(count, 2))


@pytest.mark.parametrize("classes", [0, 3, 26, pytest.param(100, marks=pytest.mark.slow)])
def test_all_images_are_points_and_thumbnails_do_not_cover_one_another(classes: int) -> None:
    count = 120
    names = [f"class number {i}" for i in range(classes)]
    labels = [i % classes for i in range(count)] if classes else []
    drawn = thumbnail_map(
        scattered(count),
        make_images(count),
        labels=labels,
        classes=names,
        title="features of a run",
        axes=("component 1", "component 2"),
    )
    figure = drawn.figure
    assert not overlaps(figure)
    assert on_page(figure)
    assert smallest_text(figure) >= 6
    above, below = figure.axes
    assert len(np.asarray(above.collections[0].get_offsets())) == count
    boxes = [a.get_window_extent() for a in below.artists if isinstance(a, AnnotationBbox)]
    assert len(boxes) == drawn.shown
    assert 10 < drawn.shown < count
    for a, b in combinations(boxes, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    assert below.get_title() == f"{drawn.shown} of them, so that none covers another"
    written = {text.get_text() for text in above.texts}
    legend = [text.get_text() for each in figure.legends for text in each.get_texts()]
    assert legend == (names if classes == 3 else [])
    assert written == (set(names) if classes == 26 else set())


def test_frames_have_the_colors_of_the_classes() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    drawn = thumbnail_map(points, make_images(3), labels=[0, 1, 1], classes=["cat", "_dog"])
    below = drawn.figure.axes[1]
    assert on_page(drawn.figure)
    boxes = [a for a in below.artists if isinstance(a, AnnotationBbox)]
    frames = [box.patch.get_facecolor()[:3] for box in boxes]
    assert sorted(frames) == sorted(class_color(label, 2) for label in (0, 1, 1))
    point = drawn.figure.dpi / 72
    for box in boxes:  # a frame of one point around each image
        assert box.patch.get_window_extent().width == pytest.approx(13 * point, abs=0.1)
        assert box.offsetbox.get_window_extent().width == pytest.approx(11 * point, abs=0.1)


def test_thinned_points_are_apart_and_no_other_would_fit() -> None:
    points = 100 * scattered(300)
    kept = thinned(points, 20)
    assert len(set(kept)) == len(kept)
    distances = np.abs(points[:, None] - points[None, kept]).max(axis=2)  # [300, kept]
    for i in range(300):
        nearest = distances[i][[k != i for k in kept]].min()
        assert (nearest >= 20) == (i in kept)


def test_points_in_one_place_can_be_drawn() -> None:
    assert thumbnail_map(np.zeros((3, 2)), make_images(3)).shown == 1


@pytest.mark.parametrize("classes", [2, 7, 20, 100])
def test_classes_have_colors_of_their_own(classes: int) -> None:
    assert len({class_color(number, classes) for number in range(classes)}) == classes
