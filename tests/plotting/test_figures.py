from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_layout import on_page, overlaps, smallest_text
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ssltool.errors import UsageError
from ssltool.plotting.bars import bar_panels
from ssltool.plotting.colors import BASELINE, GRAY, PALETTE
from ssltool.plotting.figures import figure, save_figure, save_plot
from ssltool.plotting.lines import panels, spread
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Points, Series
from ssltool.plotting.ticks import number

LOSS = Lines(
    {"a": Series([10, 20, 30], [3.5, 3.0, 2.5])}, "step", "loss", [Level(4.6, "chance level")]
)


def texts(drawn: Figure) -> set[str]:
    return {
        text.get_text() for text in drawn.findobj(Text) if text.get_text() and text.get_visible()
    }


def test_curves_have_labels_levels_and_a_style_each() -> None:
    plot = Lines.shared_x(
        [1.0, 2, 3], {"ours": [3.0, 2, 1], "theirs": [1.0, 1, 1]}, "pixels", "error, %"
    )
    drawn = figure(plot._replace(levels=[Level(2.5, "interpolation")]), "seam")
    assert {"ours", "theirs", "pixels", "error, %", "seam", "interpolation\n2.5"} <= texts(drawn)
    ours, theirs, level = drawn.axes[0].lines
    assert np.asarray(ours.get_xydata()).tolist() == [[1, 3], [2, 2], [3, 1]]
    assert ours.get_color() != theirs.get_color()
    assert level.get_linewidth() < ours.get_linewidth()
    assert np.asarray(level.get_ydata()).tolist() == [2.5, 2.5]
    assert on_page(drawn)


def test_a_logarithmic_axis_has_a_marked_point_and_a_tick_at_each_value() -> None:
    plot = Lines({"a": Series([9, 90], [1.0, 2.0]), "b": Series([900], [3.0])}, "x", "y", (), True)
    axis = figure(plot, "t").axes[0]
    assert axis.get_xscale() == "log"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["9", "90", "900"]
    assert {line.get_marker() for line in axis.lines} == {"o"}


def test_categories_keep_their_order() -> None:
    plot = Lines({"a": Series(["stem", "layer1"], [2.0, 1.0])}, "stage", "y")
    drawn = figure(plot, "t")
    FigureCanvasAgg(drawn).draw()
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == ["stem", "layer1"]


def test_panels_share_a_legend_and_leave_no_empty_axes() -> None:
    two = {"a": Series([1, 2], [0.0, 1.0], 0), "b": Series([1, 2], [1.0, 0.0], 1)}
    one = {"b": Series([1], [0.5], 1)}
    plots = [Lines(two, "step", name) for name in ("loss", "top5", "lr", "knn")]
    drawn = panels(
        [*plots, Lines(one, "step", "std", [Level(1, "chance level", 1, "b")])], "two runs"
    )
    assert [axis.get_title() for axis in drawn.axes[:5]] == ["loss", "top5", "lr", "knn", "std"]
    assert [axis.get_visible() for axis in drawn.axes] == [True] * 5 + [False]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["a", "b", "chance level"]
    point, level = drawn.axes[4].lines
    assert point.get_color() == level.get_color() == PALETTE[1]  # b has its color in every panel
    assert point.get_marker() == "o"  # a single value could not be seen as a line
    (legend,) = panels([LOSS], "one run").legends  # the title says whose curve it is
    assert [text.get_text() for text in legend.get_texts()] == ["chance level"]
    assert on_page(drawn)


def test_small_matrices_have_their_values_written_in() -> None:
    values = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    small = figure(Matrix(values, ["a", "b"], ["c", "d"], "true", "predicted"), "confusion")
    assert {"0.75", "0.25", "0.50", "a", "d", "true", "predicted", "confusion"} <= texts(small)
    assert on_page(small)
    names = [str(i) for i in range(30)]
    assert "1.00" not in texts(figure(Matrix(torch.eye(30), names, names, "r", "c"), "t"))
    percent = Matrix(100 * values, ["a", "b"], ["c", "d"], "r", "c", digits=0)
    assert {"75", "25"} <= texts(figure(percent, "t"))


def test_points_keep_their_colors_and_equal_axes() -> None:
    plot = Points(
        torch.tensor([0.0, 10]),
        torch.tensor([5.0, 5]),
        torch.tensor([[255, 0, 0], [0, 0, 255]], dtype=torch.uint8),
        torch.tensor([0.0, 1]),
        "a",
        "b",
    )
    axis = figure(plot, "plane").axes[0]
    points = axis.collections[0]
    assert points.get_facecolors()[:, :3].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert points.get_sizes()[0] < points.get_sizes()[1]
    assert axis.get_aspect() == 1


def test_bars_are_sorted_with_values_and_errors() -> None:
    drawn = figure(Bars({"a": 2.0, "b": 3.5, "c": 1.0}, "accuracy, %", {"a": 0.5}), "classes")
    axis = drawn.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [1.0, 2.0, 3.5]
    assert {"2", "3.5", "1", "accuracy, %", "classes"} <= texts(drawn)
    (errors,) = axis.collections
    lengths = [np.ptp(segment[:, 0]) for segment in errors.get_segments() if len(segment)]
    assert [length for length in lengths if not np.isnan(length)] == [1]
    assert on_page(drawn)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_figures_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (save_plot(LOSS, tmp_path / f / f"c{suffix}", "loss") for f in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".png":
        with Image.open(first) as image:
            assert image.width == 1005  # 8.5 cm at 300 dots per inch
            image.verify()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"figures are written as \.png, \.svg or \.pdf"):
        save_figure(panels([LOSS], "a run"), tmp_path / "a.jpg")


NAMES = [
    "apple",
    "a class with quite a long name",
    "signs_and_symbols_of_all_kinds_of_maps",
    "_x",
    "$a_$",
]


def named(count: int) -> list[str]:
    return [f"{NAMES[i % len(NAMES)]} {i}" for i in range(count)]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (2, 2),
        (12, 12),
        (1, 4),
        *[pytest.param(n, n, marks=pytest.mark.slow) for n in (26, 60, 300, 1000)],
    ],
)
def test_a_matrix_of_any_size_is_legible(rows: int, columns: int) -> None:
    values = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    labels = ("true class", "predicted class")
    plot = Matrix(100 * values, named(rows), named(columns), *labels, 0, "share, %", (0, 100))
    drawn = figure(plot, "predictions in % of each class, with a title of several lines of text")
    assert not overlaps(drawn)
    assert on_page(drawn)
    assert smallest_text(drawn) >= 6
    axis = drawn.axes[0]
    (bar,) = axis.child_axes
    box, tall = axis.get_window_extent(), bar.get_window_extent()
    assert (tall.y0, tall.y1) == pytest.approx((box.y0, box.y1), abs=1)
    assert bar.get_ylabel() == "share, %"
    (image,) = axis.images
    assert image.get_clim() == (0, 100)
    every = -(-columns // len(axis.get_xticks()))
    assert ("named" in axis.get_xlabel()) == (every > 1)


def test_small_values_of_a_matrix_can_be_seen_beside_large_ones() -> None:
    names = ["a", "b"]
    plain = Matrix(torch.tensor([[96.0, 4], [0, 100]]), names, names, "r", "c", 0, "", (0, 100))
    for small, shade in ((False, 0.04), (True, 0.2)):
        (image,) = figure(plain._replace(small_values=small), "t").axes[0].images
        assert float(image.norm(4)) == pytest.approx(shade)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8).flatmap(
        lambda centers: st.tuples(
            st.just(centers),
            st.lists(st.floats(0.1, 50), min_size=len(centers), max_size=len(centers)),
        )
    )
)
def test_labels_are_spread_without_overlap_and_without_need_not_moved(
    case: tuple[list[float], list[float]],
) -> None:
    centers, heights = case
    placed = spread(centers, heights)
    order = sorted(range(len(centers)), key=lambda i: centers[i])
    for a, b in itertools.pairwise(order):
        assert placed[b] - placed[a] >= (heights[a] + heights[b]) / 2 - 1e-6
    free = all(
        centers[b] - centers[a] >= (heights[a] + heights[b]) / 2
        for a, b in itertools.pairwise(order)
    )
    if free:
        assert placed == pytest.approx(centers, abs=1e-6)
    assert sum(placed) == pytest.approx(sum(centers), abs=1e-3)  # moved to both sides alike


def test_levels_that_are_close_have_labels_of_their_own() -> None:
    levels = [Level(value, name) for value, name in ((8.1, "raw pixels"), (8.0, "majority class"))]
    curves = {"ours": Series(["stem", "layer1"], [60.0, 80.0], 0, [1.0, 1.0])}
    curves["random init"] = Series(["stem", "layer1"], [50.0, 40.0], BASELINE)
    plot = Lines(curves, "stage", "accuracy, %", levels)
    drawn = figure(plot, "stages")
    assert not overlaps(drawn)
    assert on_page(drawn)
    assert GRAY in {line.get_color() for line in drawn.axes[0].lines}
    assert not overlaps(panels([plot._replace(x_label="step")] * 3, "a run"))


@pytest.mark.parametrize("low", [0.0, 1e-7, 1e3, 1e6])
def test_axes_have_no_offset_and_no_power(low: float) -> None:
    plot = Lines({"a": Series([0, 1e6], [low + 1e-3, low + 2e-3])}, "step", "loss")
    drawn = panels([plot, plot], "a run")
    FigureCanvasAgg(drawn).draw()
    for axis in drawn.axes:
        for part in (axis.xaxis, axis.yaxis):
            assert part.get_offset_text().get_text() == ""
    assert not overlaps(drawn)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.25, "0.25"), (9000, "9000"), (2e4, "20k"), (1.5e6, "1.5M"), (1e-5, "1e-5")],
)
def test_numbers_of_ticks_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_names_on_a_logarithmic_axis_are_left_out_where_they_would_overlap() -> None:
    x = [100.0, 101, 102, 1000, 100_000]
    drawn = figure(Lines({"a": Series(x, x)}, "labeled images", "y", log_x=True), "t")
    labels = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert len(labels) == 5
    assert labels[0] == "100"
    assert labels[-1] == "100,000"
    assert not overlaps(drawn)


def test_many_categories_stand_upright() -> None:
    names = [f"stage{i} of a network" for i in range(14)]
    drawn = figure(Lines({"a": Series(names, range(14))}, "stage", "y"), "t")
    assert not overlaps(drawn)
    assert on_page(drawn)


def test_bars_of_baselines_are_gray_and_long_names_are_wrapped() -> None:
    values = {f"{name}, measured on all of the images": float(i) for i, name in enumerate(NAMES)}
    bars = Bars(values, "accuracy, %", {}, (Level(2.0, "chance level"),), True)
    first = next(iter(values))
    drawn = bar_panels([bars._replace(color={first: BASELINE}), bars], "a title of bars")
    assert not overlaps(drawn)
    assert on_page(drawn)
    assert smallest_text(drawn) >= 6
    colors = [bar.get_facecolor() for bar in drawn.axes[0].patches]
    assert len(set(colors)) == 2
    assert all(axis.get_xlim()[0] == 0 for axis in drawn.axes)


def test_a_figure_is_opaque_and_light(tmp_path: Path) -> None:
    with Image.open(save_plot(LOSS, tmp_path / "a.png", "loss")) as image:
        assert image.convert("RGBA").getpixel((1, 1)) == (255, 255, 255, 255)
