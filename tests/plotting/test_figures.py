from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ssltool.errors import UsageError
from ssltool.plotting.colors import PALETTE
from ssltool.plotting.figures import figure, panels, save_figure, save_plot
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Points, Series

LOSS = Lines({"a": Series([10, 20, 30], [3.5, 3.0, 2.5])}, "step", "loss", [Level(4.6, "chance")])


def texts(drawn: Figure) -> set[str]:
    return {
        text.get_text() for text in drawn.findobj(Text) if text.get_text() and text.get_visible()
    }


def fits(drawn: Figure) -> bool:
    """Whether everything drawn is on the page."""
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    box = drawn.get_tightbbox(canvas.get_renderer())  # in inches, as the size
    width, height = drawn.get_size_inches()
    return bool(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height)


def test_curves_have_labels_levels_and_a_style_each() -> None:
    plot = Lines.shared_x(
        [1.0, 2, 3], {"ours": [3.0, 2, 1], "theirs": [1.0, 1, 1]}, "pixels", "error, %"
    )
    drawn = figure(plot._replace(levels=[Level(2.5, "interpolation 2.5")]), "seam")
    assert {"ours", "theirs", "pixels", "error, %", "seam", "interpolation 2.5"} <= texts(drawn)
    ours, theirs, level = drawn.axes[0].lines
    assert np.asarray(ours.get_xydata()).tolist() == [[1, 3], [2, 2], [3, 1]]
    assert ours.get_linestyle() != theirs.get_linestyle()
    assert np.asarray(level.get_ydata()).tolist() == [2.5, 2.5]
    assert fits(drawn)


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
    drawn = panels([*plots, Lines(one, "step", "std", [Level(1, "chance of b", 1)])], "two runs")
    assert [axis.get_title() for axis in drawn.axes[:5]] == ["loss", "top5", "lr", "knn", "std"]
    assert [axis.get_visible() for axis in drawn.axes] == [True] * 5 + [False]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["a", "b"]
    point, level = drawn.axes[4].lines
    assert point.get_color() == level.get_color() == PALETTE[1]  # b has its color in every panel
    assert point.get_marker() == "o"  # a single value could not be seen as a line
    assert not panels([LOSS], "one run").legends
    assert fits(drawn)


def test_small_matrices_have_their_values_written_in() -> None:
    values = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    small = figure(Matrix(values, ["a", "b"], ["c", "d"], "true", "predicted"), "confusion")
    assert {"0.75", "0.25", "0.50", "a", "d", "true", "predicted", "confusion"} <= texts(small)
    assert fits(small)
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
    assert {"2.0", "3.5", "1.0", "accuracy, %", "classes"} <= texts(drawn)
    (errors,) = axis.collections
    assert [np.ptp(segment[:, 0]) for segment in errors.get_segments()] == [0, 1, 0]
    assert fits(drawn)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_figures_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (save_plot(LOSS, tmp_path / f / f"c{suffix}", "loss") for f in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".png":
        with Image.open(first) as image:
            assert image.size == (960, 630)  # 6.4 by 4.2 inches
            image.verify()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"plots are written as \.png, \.svg or \.pdf"):
        save_figure(panels([LOSS], "a run"), tmp_path / "a.jpg")
