"""Plot records to matplotlib figures, saved as PNG, SVG or PDF; no display, no global state.

Names and titles are user text: each is drawn through `ssltool.plotting.text.legible`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ssltool.atomic import atomic_file
from ssltool.errors import UsageError
from ssltool.plotting.colors import GRAY, ORANGE, PALETTE
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Points
from ssltool.plotting.text import as_plain_text, legible

FORMATS = (".png", ".svg", ".pdf")
_DASHES = ("-", "--", "-.", ":")
_NUMBERED = 20  # rows or columns up to which a matrix has its values written in
_UNDATED: dict[str, dict[str, str | None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def save_plot(plot: Plot, path: Path, title: str) -> Path:
    """Draw a plot and save it; see `save_figure`."""
    return save_figure(figure(plot, title), path)


def require_format(path: Path) -> None:
    """Check the suffix of a figure, before anything is computed.

    Raises:
        UsageError: It is not .png, .svg or .pdf.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--to {path}: figures are written as .png, .svg or .pdf")


def save_figure(drawn: Figure, path: Path, dpi: int = 150) -> Path:
    """Save a figure in the format of the suffix. Equal figures give equal bytes.

    Raises:
        UsageError: The suffix is not .png, .svg or .pdf.
    """
    require_format(path)
    as_plain_text(drawn)
    FigureCanvasAgg(drawn)
    with atomic_file(path) as temporary, rc_context({"svg.hashsalt": "ssltool"}):
        drawn.savefig(temporary, format=path.suffix[1:], dpi=dpi, metadata=_UNDATED[path.suffix])
    return path


def figure(plot: Plot, title: str) -> Figure:
    """Draw one plot under its title."""
    match plot:
        case Lines():
            return _lines(plot, title)
        case Matrix():
            return _matrix(plot, title)
        case Points():
            return _points(plot, title)
        case Bars():
            return _bars(plot, title)


def panels(plots: Sequence[Lines], title: str) -> Figure:
    """Draw several plots in a grid, each under its y label, with one legend if a plot has several
    curves.
    """
    columns = 2 if len(plots) in {2, 4} else min(3, len(plots))
    rows = -(-len(plots) // columns)
    drawn = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.4), layout="constrained")
    drawn.suptitle(legible(title))
    grid = list(drawn.subplots(rows, columns, squeeze=False).flat)
    curves: dict[str, Line2D] = {}  # by name
    for plot, axis in zip(plots, grid, strict=False):
        curves |= _draw_lines(axis, plot)
        axis.set_title(legible(plot.y_label), fontsize=10)
        axis.set_xlabel(legible(plot.x_label), fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in grid[len(plots) :]:
        axis.set_visible(False)
    if len(curves) > 1:
        _name(drawn.legend, curves, loc="outside lower center", ncols=4, fontsize=9)
    return drawn


def _lines(plot: Lines, title: str) -> Figure:
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = drawn.subplots()
    curves = _draw_lines(axis, plot)
    axis.set_xlabel(legible(plot.x_label))
    axis.set_ylabel(legible(plot.y_label))
    axis.set_title(legible(title), fontsize=10)
    _name(axis.legend, curves, fontsize=8)
    return drawn


def _name(legend: Callable[..., Legend], curves: Mapping[str, Line2D], **style: Any) -> None:
    """Draw a legend; names are set last, since matplotlib leaves out those that begin with _."""
    texts = legend(list(curves.values()), [str(i) for i in range(len(curves))], **style).get_texts()
    for text, name in zip(texts, curves, strict=True):
        text.set_text(legible(name))


def _draw_lines(axis: Axes, plot: Lines) -> dict[str, Line2D]:
    """Draw the curves and the levels, distinguished by color and by dash; the curves by name."""
    following, curves = count(), {}
    for name, series in plot.series.items():
        index = next(following) if series.color is None else series.color
        (curves[name],) = axis.plot(
            series.x,
            series.y,
            color=PALETTE[index % len(PALETTE)],
            linestyle=_DASHES[index % len(_DASHES)],
            linewidth=1.5,
            marker="o" if plot.log_x or len(series.y) == 1 else None,
            markersize=4,
        )
    axis.grid(alpha=0.25)
    if plot.log_x:
        ticks = sorted({float(x) for series in plot.series.values() for x in series.x})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axis.minorticks_off()
    if plot.levels:
        low, high = axis.get_ylim()
        for level in plot.levels:
            _draw_level(axis, level, ORANGE if len(plot.series) == 1 else GRAY, (low + high) / 2)
        axis.margins(y=0.08)
    return curves


def _draw_level(axis: Axes, level: Level, default: str, middle: float) -> None:
    """Draw a level across; its label stands at the right, on the side that has more room."""
    color = default if level.color is None else PALETTE[level.color % len(PALETTE)]
    axis.axhline(level.value, color=color, linestyle=(0, (4, 3)), linewidth=1)
    below = level.value > middle
    axis.annotate(
        legible(level.label),
        (0.98, level.value),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        color=color,
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )


def _matrix(plot: Matrix, title: str) -> Figure:
    """A heat map with its values written in; large tables have the colors alone."""
    values = plot.values.cpu().double().numpy()
    numbered = max(values.shape) <= _NUMBERED
    cell = 0.55 if numbered else 0.26  # inches
    height, width = values.shape
    drawn = Figure(
        figsize=(max(5.0, cell * width + 2), max(4.0, cell * height + 1.5)), layout="constrained"
    )
    axis = drawn.subplots()
    drawn.colorbar(axis.imshow(values, cmap="viridis", interpolation="nearest"), ax=axis)
    middle = (values.min() + values.max()) / 2
    for (y, x), value in np.ndenumerate(values) if numbered else ():
        ink = "black" if value > middle else "white"
        text = f"{value:.{plot.digits}f}"
        axis.text(x, y, text, ha="center", va="center", fontsize=8, color=ink)
    columns, rows = list(map(legible, plot.columns)), list(map(legible, plot.rows))
    upright = max(map(len, columns)) > 4
    axis.set_xticks(range(width), columns, rotation=90 if upright else 0, fontsize=8)
    axis.set_yticks(range(height), rows, fontsize=8)
    axis.set_xlabel(legible(plot.column_label))
    axis.set_ylabel(legible(plot.row_label))
    axis.set_title(legible(title), fontsize=10)
    return drawn


def _points(plot: Points, title: str) -> Figure:
    drawn = Figure(figsize=(6.4, 6.0), layout="constrained")
    axis = drawn.subplots()
    axis.scatter(
        plot.x.cpu().numpy(),
        plot.y.cpu().numpy(),
        s=4 + 120 * plot.sizes.cpu().numpy(),
        c=plot.colors.cpu().numpy() / 255,
        edgecolors=GRAY,
        linewidths=0.3,
    )
    axis.set_aspect("equal")
    axis.set_xlabel(legible(plot.x_label))
    axis.set_ylabel(legible(plot.y_label))
    axis.set_title(legible(title), fontsize=10)
    axis.grid(alpha=0.25)
    return drawn


def bar_panels(plots: Sequence[Bars], title: str) -> Figure:
    """Draw several plots of bars below one another, under one title."""
    rows = [len(plot.values) for plot in plots]
    height = 0.24 * sum(rows) + 0.75 * len(plots) + 0.5
    drawn = Figure(figsize=(6.4, max(2.4, height)), layout="constrained")
    axes = drawn.subplots(len(plots), squeeze=False, height_ratios=rows)[:, 0]
    for plot, axis in zip(plots, axes, strict=True):
        _draw_bars(axis, plot)
    drawn.suptitle(legible(title), fontsize=10)  # centered over the names as well
    return drawn


def _bars(plot: Bars, title: str) -> Figure:
    return bar_panels([plot], title)


def _draw_bars(axis: Axes, plot: Bars) -> None:
    """Draw bars with their values written beside them, and levels across them."""
    names = plot.names
    lengths = [plot.values[name] for name in names]
    errors = [plot.std.get(name, 0.0) for name in names] if plot.std else None
    colors = [PALETTE[plot.color.get(name, 0) % len(PALETTE)] for name in names]
    bars = axis.barh(
        range(len(names)), lengths, xerr=errors, color=colors, error_kw={"linewidth": 1}
    )
    axis.set_yticks(range(len(names)), list(map(legible, names)))
    written = ".1f" if max(map(abs, lengths), default=1.0) >= 1 else ".3g"
    axis.bar_label(bars, [f"{length:{written}}" for length in lengths], fontsize=8, padding=3)
    axis.set_xlabel(legible(plot.label))
    axis.tick_params(labelsize=8)
    axis.margins(x=0.12, y=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    for level in plot.levels:
        color = GRAY if level.color is None else PALETTE[level.color % len(PALETTE)]
        axis.axvline(level.value, color=color, linestyle=(0, (4, 3)), linewidth=1)
        axis.annotate(
            legible(level.label),
            (level.value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=color,
            fontsize=8,
        )
