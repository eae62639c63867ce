from __future__ import annotations

import math
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ssltool.errors import UsageError
from ssltool.plotting import charts as chart


def drawn_set(
    count: int, tiles: int, **options: Any
) -> tuple[Figure, np.ndarray, np.ndarray, list[int]]:
    generator = np.random.default_rng(0)
    rows = list(permutations(range(tiles))) if math.factorial(tiles) == count else None
    chosen = np.array(rows or [generator.permutation(tiles) for _ in range(count)], dtype=np.uint8)
    distances = (chosen[:, None] != chosen[None]).sum(axis=2).astype(np.uint8)
    histogram = np.bincount(distances[np.triu_indices(count, 1)], minlength=tiles + 1).tolist()
    return (
        chart.permutation_set(chosen, distances, histogram, "the title", **options),
        chosen,
        distances,
        histogram,
    )


def texts(figure: Figure) -> list[str]:
    return [
        text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()
    ]


def boxes(figure: Figure) -> dict[str, Any]:
    """Where each visible text stands on the page, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = [
        text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()
    ]
    return {
        f"{i} {text.get_text()}": text.get_window_extent(canvas.get_renderer())
        for i, text in enumerate(found)
    }


def inside(figure: Figure) -> bool:
    """Whether everything drawn stands on the page."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, (width, height) = (
        figure.get_tightbbox(canvas.get_renderer()),
        figure.get_size_inches(),
    )  # both in inches
    return bool(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height)


@pytest.mark.parametrize(("count", "tiles"), [(2, 9), (24, 4), (100, 9), (1000, 9), (3, 25)])
def test_a_permutation_set_fits_the_page(count: int, tiles: int) -> None:
    figure, *_ = drawn_set(count, tiles)
    assert inside(figure)


def test_bar_labels_do_not_touch() -> None:
    figure, _, _, histogram = drawn_set(1000, 9)
    labels = {f"{number:,}" for number in histogram if number > 10_000}
    found = sorted(
        (b for name, b in boxes(figure).items() if name.split(" ")[1] in labels), key=lambda b: b.x0
    )
    assert len(found) >= 2
    for a, b in pairwise(found):
        assert a.x1 < b.x0 or a.y1 < b.y0 or b.y1 < a.y0


def test_the_grids_show_the_first_permutations_in_reading_order() -> None:
    figure, chosen, *_ = drawn_set(100, 9, shown=6)
    axis = figure.findobj(
        lambda a: hasattr(a, "get_title") and a.get_title().startswith("the first 6 of 100")
    )[0]
    slots = {
        (round(t.get_position()[1], 2), round(t.get_position()[0], 2)): t.get_text()
        for t in axis.texts
    }
    # Blocks are 3 slots and a gap wide; row 0 of a block holds its number. Six blocks stand 3 in a
    # row.
    assert "".join(slots[1 + i // 3, i % 3] for i in range(9)) == "".join(
        str(c + 1) for c in chosen[0]
    )
    assert "".join(slots[5 + i // 3, 8 + i % 3] for i in range(9)) == "".join(
        str(c + 1) for c in chosen[5]
    )
    mosaic = np.asarray(axis.images[0].get_array())
    colors = {}
    for (y, x), cell in slots.items():
        if float(y).is_integer():  # numbers of permutations stand between the slots
            colors.setdefault(cell, set()).add(tuple(mosaic[int(y), int(x)]))
    assert len(colors) == 9
    assert all(len(seen) == 1 for seen in colors.values())  # a cell has one color
    assert len(set.union(*colors.values())) == 9  # and no two cells share it


@pytest.mark.parametrize(("count", "every"), [(100, 1), (1000, 2)])
def test_the_matrix_and_the_histogram_are_those_given(count: int, every: int) -> None:
    figure, _, distances, histogram = drawn_set(count, 9)
    axes = {axis.get_title(): axis for axis in figure.findobj(lambda a: hasattr(a, "get_title"))}
    (title,) = [name for name in axes if name.startswith("Hamming distance of each pair")]
    assert ("1 in 2" in title) == (every == 2)
    shown = np.asarray(axes[title].images[0].get_array())
    assert np.array_equal(shown, distances[::every, ::every])
    assert axes[title].get_xlim() == (-0.5, count - 0.5)
    assert [bar.get_height() for bar in axes["pairs at each distance"].patches] == histogram
    assert {f"{number:,}" for number in histogram if number} <= set(texts(figure))
    assert "the title" in texts(figure)


LINES = [
    {
        "step": step,
        "epoch": step / 10,
        "loss": 4 - step / 20,
        "accuracy": step / 50,
        "lr": 0.1,
        "images_per_s": 1.0,
    }
    for step in (10, 20, 30)
]


def test_curves_with_chance_levels() -> None:
    figure = chart.curves({"a": LINES}, {"a": {"loss": math.log(100), "accuracy": 0.01}}, "a run")
    loss, accuracy, lr = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in (loss, accuracy, lr)] == ["loss", "accuracy, %", "lr"]
    assert loss.lines[0].get_xydata().tolist() == [[10, 3.5], [20, 3.0], [30, 2.5]]
    assert loss.lines[1].get_ydata()[0] == math.log(100)
    assert [text.get_text() for text in accuracy.texts] == ["chance 1"]
    assert len(lr.lines) == 1
    assert "a run" in texts(figure)


def test_curves_of_several_runs_have_a_legend_and_name_whose_chance_it_is() -> None:
    runs = {"a": LINES, "b": LINES[:2]}
    same = chart.curves(runs, {"a": {"loss": 2.0}, "b": {"loss": 2.0}}, "two runs")
    assert [text.get_text() for text in same.axes[0].texts] == ["chance 2"]
    assert [text.get_text() for text in same.legends[0].get_texts()] == ["a", "b"]
    unlike = chart.curves(runs, {"a": {"loss": 2.0}, "b": {"loss": 3.0}}, "two runs")
    assert [text.get_text() for text in unlike.axes[0].texts] == ["chance 2 of a", "chance 3 of b"]


def test_modes_stand_above_one_another_with_their_statistics() -> None:
    counts = {"max_min": [0, 0, 3, 7], "random": [0, 2, 4, 4]}
    figure = chart.permutation_modes(
        counts, {"max_min": (2.7, 2, 3), "random": (2.2, 1, 1)}, "10 pairs"
    )
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "max_min\nmean 2.7000\nleast 2, 3 pairs",
        "random\nmean 2.2000\nleast 1, 1 pair",
    ]
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert heights == [[0, 0, 3, 7], [0, 2, 4, 4]]


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"charts are written as \.png, \.svg or \.pdf"):
        chart.save_figure(chart.curves({"a": LINES}, {}, "a run"), tmp_path / "a.jpg")


def test_curves_without_chance_and_with_places_left_over() -> None:
    lines = [{**line, "top5": 0.5, "knn": 0.5} for line in LINES]
    figure = chart.curves({"a": lines}, {"a": {}}, "a run")
    assert [axis.get_visible() for axis in figure.axes] == [True] * 5 + [False]
    assert not any("chance" in text for text in texts(figure))


def test_a_single_line_of_metrics_is_a_point() -> None:
    figure = chart.curves({"a": LINES[:1]}, {"a": {}}, "a run")
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_a_number_that_came_later_starts_later() -> None:
    figure = chart.curves({"a": [LINES[0], {**LINES[1], "log_scale": 2.0}]}, {"a": {}}, "a run")
    (scale,) = [axis for axis in figure.axes if axis.get_title() == "log scale"]
    assert (list(scale.lines[0].get_xdata()), list(scale.lines[0].get_ydata())) == (
        [LINES[1]["step"]],
        [2.0],
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 20, 64])
def test_filters_are_gray_at_zero_and_full_at_their_largest_weight(
    channels: int, count: int
) -> None:
    kernels = np.random.default_rng(0).normal(size=(count, channels, 5, 5))
    figure = chart.filters(kernels, "first layer of a run with a name of some length")
    images = [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]
    assert len(images) == count
    for kernel, image in zip(kernels, images, strict=True):
        assert image.shape == ((5, 5, 3) if channels == 3 else (5, 5))
        place = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)  # channel, row, column
        shown = image[(*place[1:], place[0])[: image.ndim]]
        assert shown == pytest.approx(1 if kernel[place] > 0 else 0)
        expected = 0.5 + kernel / (2 * np.abs(kernel).max())
        assert np.allclose(image, expected.transpose(1, 2, 0).squeeze())
    assert inside(figure)


def test_a_constant_kernel_is_no_division_by_zero() -> None:
    image = chart.filters(np.full((2, 1, 3, 3), 0.25), "").axes[0].images[0].get_array()
    assert np.isfinite(np.asarray(image)).all()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    paths = [
        chart.save_figure(
            chart.curves({"a": LINES}, {"a": {}}, "a run"), tmp_path / folder / f"c{suffix}"
        )
        for folder in ("a", "b")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".png":
        with Image.open(paths[0]) as image:
            assert image.size == (round(4.6 * 3 * 150), round((2.9 + 0.4) * 150))
            image.verify()


def test_a_small_matrix_has_its_numbers_written_in() -> None:
    values = np.array([[0.75, 0.25], [0.5, 0.5]])
    figure = chart.matrix(values, ["a", "b"], ["c", "d"], "truth", "answer", title="confusion")
    assert {"0.75", "0.25", "0.50", "a", "d", "truth", "answer", "confusion"} <= set(texts(figure))
    assert inside(figure)
    large = chart.matrix(
        np.eye(30), [str(i) for i in range(30)], [str(i) for i in range(30)], "r", "c", title="t"
    )
    assert "1.00" not in texts(large)


def test_lines_are_named() -> None:
    figure = chart.lines(
        [1.0, 2, 3],
        {"ours": [3.0, 2, 1], "theirs": [1.0, 1, 1]},
        "pixels",
        "error, %",
        title="seam",
    )
    assert {"ours", "theirs", "pixels", "error, %", "seam"} <= set(texts(figure))
    styles = {line.get_linestyle() for line in figure.axes[0].lines}
    assert len(styles) == 2
    assert inside(figure)


def test_points_keep_their_colors_and_equal_axes() -> None:
    colors = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    figure = chart.points(
        np.array([0.0, 10]), np.array([5.0, 5]), colors, np.array([0.0, 1]), "a", "b", title="plane"
    )
    points = figure.axes[0].collections[0]
    assert points.get_facecolors()[:, :3].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert points.get_sizes()[0] < points.get_sizes()[1]
    assert figure.axes[0].get_aspect() == 1
