"""Figures of lines: one plot, or several in two columns under one legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ssltool.plotting.colors import GRAY, color_of
from ssltool.plotting.records import Lines
from ssltool.plotting.style import (
    COLUMN,
    LEVEL_DASH,
    LEVEL_WIDTH,
    POINT,
    SMALL,
    TEXT,
    new_figure,
    styled,
)
from ssltool.plotting.text import as_plain_text, legible, shortened, text_width, wrap
from ssltool.plotting.ticks import LONGEST_NAME, STEPS, plain_numbers

_DASHES: tuple[Any, ...] = ("-", (0, (3, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_EDGE = "level"  # id of the labels at the right edge


@styled
def panels(plots: Sequence[Lines], title: str) -> Figure:
    """Draw several plots in two columns, each under its y label, with one legend.

    Reference levels are named in the legend; their values are at the right edge of each panel.
    """
    columns = min(2, len(plots))
    rows = -(-len(plots) // columns)
    drawn = new_figure(title, 1.12 * rows + 0.35)
    grid = list(drawn.subplots(rows, columns, squeeze=False).flat)
    handles, levels = dict[str, Artist](), dict[str, Artist]()
    for plot, axis in zip(plots, grid, strict=False):
        curves = _draw_lines(axis, plot, ticks=5)
        handles |= curves
        levels |= _draw_levels(axis, plot, named=False)
        lines = wrap(legible(plot.y_label), TEXT, 0.42 * COLUMN / POINT)
        axis.set_title("\n".join(lines))
    labels = {plot.x_label for plot in plots}
    lowest = max(0, len(plots) - columns) if len(labels) == 1 else 0
    for i in range(lowest, len(plots)):  # once per column, if all are alike
        grid[i].set_xlabel(legible(plots[i].x_label))
    for axis in grid[len(plots) :]:
        axis.set_visible(False)
    _legend(drawn, (handles if len(handles) > 1 else {}) | levels)
    _spread_labels(drawn)
    return drawn


@styled
def line_figure(plot: Lines, title: str) -> Figure:
    """Draw one plot of lines under its title, with a legend."""
    drawn = new_figure(title, 2.2)
    axis = drawn.subplots()
    curves = _draw_lines(axis, plot, ticks=6)
    _draw_levels(axis, plot, named=True)
    axis.set_xlabel(legible(plot.x_label))
    axis.set_ylabel("\n".join(wrap(legible(plot.y_label), TEXT, 1.7 / POINT)))
    if len(curves) > 1:
        _legend(drawn, curves)
    _spread_labels(drawn)
    return drawn


def _legend(drawn: Figure, handles: Mapping[str, Artist]) -> None:
    """A legend below all axes, in as many columns as fit.

    Names are set last, since matplotlib leaves out those that begin with _.
    """
    if not handles:
        return
    room = drawn.get_figwidth() / POINT
    names = [shortened(legible(name), TEXT, room - 40) for name in handles]
    entry = 28 + max(text_width(name, TEXT) for name in names)  # points, with line and gap
    columns = max(1, min(len(names), int(room // entry)))
    numbers = [str(i) for i in range(len(names))]
    legend = drawn.legend(
        list(handles.values()), numbers, loc="outside lower center", ncols=columns, borderpad=0.1
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _draw_lines(axis: Axes, plot: Lines, ticks: int) -> dict[str, Artist]:
    """Draw the curves, distinguished by color, then by dash; lines for a legend by name."""
    following, curves, used = count(), dict[str, Artist](), Counter[str]()
    for name, series in plot.series.items():
        color = color_of(next(following) if series.color is None else series.color)
        dash = _DASHES[used[color] % len(_DASHES)]
        used[color] += 1
        curves[name] = Line2D([], [], color=color, linestyle=dash)
        marked = plot.log_x or len(series.y) < 2 or bool(series.error) or _categories(plot)
        marker = "o" if marked else None
        axis.plot(series.x, series.y, color=color, linestyle=dash, marker=marker)
        if series.error:
            axis.errorbar(
                series.x,
                series.y,
                yerr=series.error,
                fmt="none",
                ecolor=color,
                elinewidth=0.7,
                capsize=1.5,
                capthick=0.7,
            )
    axis.grid()
    if plot.log_y:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.yaxis.set_major_locator(MaxNLocator(ticks, steps=STEPS))
    plain_numbers(axis.yaxis)
    if plot.log_x:
        _label_every_x(axis, plot)
    elif _categories(plot):
        _fit_categories(axis, plot)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(ticks, steps=STEPS))
        plain_numbers(axis.xaxis)
    return curves


def _categories(plot: Lines) -> bool:
    return any(isinstance(x, str) for series in plot.series.values() for x in series.x[:1])


def _width(axis: Axes) -> float:
    """Width of an axis' figure in inches."""
    drawn = axis.get_figure(root=True)
    assert drawn is not None
    return float(drawn.get_figwidth())


def _label_every_x(axis: Axes, plot: Lines) -> None:
    """A logarithmic axis with a tick at every value, and a number wherever there is room."""
    values = sorted({float(x) for series in plot.series.values() for x in series.x})
    axis.set_xscale("log")
    axis.minorticks_off()
    room = 0.75 * _width(axis) / POINT  # points of the axis
    span = np.log(values[-1] / values[0]) if len(values) > 1 else 1.0
    labels, end = [], -np.inf
    for value in values:
        text = f"{value:,.10g}"
        at, half = room * np.log(value / values[0]) / span, text_width(text, SMALL) / 2 + 2
        fits = at - half >= end
        labels.append(text if fits else "")
        end = at + half if fits else end
    axis.set_xticks(values, labels)


def _fit_categories(axis: Axes, plot: Lines) -> None:
    """Names of categories, upright where they do not fit beside one another."""
    names = list(dict.fromkeys(str(x) for series in plot.series.values() for x in series.x))
    texts = [shortened(legible(name), SMALL, LONGEST_NAME) for name in names]
    pitch = 0.75 * _width(axis) / POINT / max(1, len(names))
    flat = max(text_width(text, SMALL) for text in texts) + 3 < pitch
    axis.set_xticks(range(len(names)), texts, rotation=0 if flat else 90)


def _draw_levels(axis: Axes, plot: Lines, *, named: bool) -> dict[str, Artist]:
    """Thin lines across, with their values at the right edge; lines for a legend by label."""
    lines: dict[str, Artist] = {}
    for level in plot.levels:
        color = GRAY if level.color is None else color_of(level.color)
        style: dict[str, Any] = {"color": color, "linestyle": LEVEL_DASH, "linewidth": LEVEL_WIDTH}
        axis.axhline(level.value, zorder=1.5, **style)
        lines[level.label] = Line2D([], [], color=GRAY, linestyle=LEVEL_DASH, linewidth=0.9)
        label = [*wrap(legible(level.label), SMALL, 0.8 / POINT), level.written]
        axis.annotate(
            "\n".join(label) if named else level.written,
            (1, level.value),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            color=color,
            fontsize=SMALL,
            linespacing=1.0,
            gid=_EDGE,
        )
    if plot.levels and not plot.log_y:
        axis.margins(y=0.08)
    return lines


def _spread_labels(drawn: Figure) -> None:
    """Move labels at the edge of an axis apart where they would cover one another."""
    crowded = [
        (axis, labels)
        for axis in drawn.axes
        if len(labels := [t for t in axis.texts if t.get_gid() == _EDGE]) > 1
    ]
    if not crowded:
        return
    as_plain_text(drawn)
    renderer = FigureCanvasAgg(drawn).get_renderer()  # type: ignore[no-untyped-call]
    drawn.draw_without_rendering()
    for axis, labels in crowded:
        pixels = [float(axis.transData.transform((0, t.xy[1]))[1]) for t in labels]  # type: ignore[attr-defined]
        heights = [text.get_window_extent(renderer).height + 1 for text in labels]
        for text, at, moved in zip(labels, pixels, spread(pixels, heights), strict=True):
            assert isinstance(text, Annotation)
            text.set_position((2, (moved - at) * 72 / drawn.dpi))


def spread(centers: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Nearest centers, by least squares, at which boxes in a column do not overlap.

    Boxes keep their order from the bottom to the top.
    """
    order = sorted(range(len(centers)), key=lambda i: centers[i])
    tall = [heights[i] for i in order]
    # Box i rests `below[i]` above the first one if all of them touch; what is left of the centers
    # has to ascend: isotonic regression, by pooling neighbors that do not.
    below = np.cumsum([0.0, *((a + b) / 2 for a, b in pairwise(tall))])
    pools: list[list[float]] = []  # mean, size
    for i, offset in zip(order, below, strict=True):
        pools.append([centers[i] - offset, 1.0])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (mean, size), (before, others) = pools.pop(), pools.pop()
            pools.append([(mean * size + before * others) / (size + others), size + others])
    means = [mean for mean, size in pools for _ in range(int(size))]
    placed = [0.0] * len(centers)
    for i, mean, offset in zip(order, means, below, strict=True):
        placed[i] = mean + float(offset)
    return placed
