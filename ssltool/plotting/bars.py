"""Figures of bars: one plot, or several below one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssltool.plotting.colors import GRAY, color_of
from ssltool.plotting.records import Bars, Level
from ssltool.plotting.style import (
    LEVEL_DASH,
    LEVEL_WIDTH,
    LINE,
    POINT,
    SMALL,
    TEXT,
    new_figure,
    styled,
)
from ssltool.plotting.text import legible, wrap
from ssltool.plotting.ticks import STEPS, plain_numbers

_SLOT = 11.0  # points from one bar to the next
_BAR_NAME = 95.0  # points, the widest line of a bar's name


@styled
def bar_panels(plots: Sequence[Bars], title: str) -> Figure:
    """Draw several plots of bars below one another, under one title."""
    names = [
        {name: wrap(legible(name), SMALL, _BAR_NAME) or [""] for name in plot.names}
        for plot in plots
    ]
    heights = [sum(_slot(len(lines)) for lines in each.values()) for each in names]
    heights = [height * _SLOT * POINT + 0.1 for height in heights]
    above = [0.14 * len(plot.levels) for plot in plots]
    drawn = new_figure(title, sum(heights) + sum(above) + 0.38 * len(plots))
    axes = drawn.subplots(len(plots), squeeze=False, height_ratios=heights)[:, 0]
    for plot, axis, each in zip(plots, axes, names, strict=True):
        _draw_bars(axis, plot, [each[name] for name in plot.names])
    return drawn


def _slot(lines: int) -> float:
    """Height of a bar and the gap to the next, times `_SLOT`, beside so many lines of text."""
    return max(1.0, lines * LINE * SMALL / _SLOT)


def _draw_bars(axis: Axes, plot: Bars, texts: Sequence[Sequence[str]]) -> None:
    """Draw bars with their values written beside them, and levels across them."""
    names = plot.names
    lengths = [plot.values[name] for name in names]
    errors = [plot.std.get(name) or np.nan for name in names] if plot.std else None
    ends = np.cumsum([0.0, *(_slot(len(lines)) for lines in texts)])
    centers = (ends[1:] + ends[:-1]) / 2
    bars = axis.barh(
        centers,
        lengths,
        height=0.72,
        xerr=errors,
        color=[color_of(plot.color.get(name, 0)) for name in names],
        error_kw={"linewidth": 0.7, "capsize": 1.5, "capthick": 0.7},
    )
    axis.set_yticks(centers, ["\n".join(lines) for lines in texts], linespacing=1.0)
    axis.tick_params(axis="y", length=0)
    written = ".1f" if max(map(abs, lengths), default=1.0) >= 10 else ".3g"
    axis.bar_label(bars, [f"{length:{written}}" for length in lengths], fontsize=SMALL, padding=2)
    axis.set_xlabel("\n".join(wrap(legible(plot.label), TEXT, 2.0 / POINT)))
    axis.margins(x=0.15)
    axis.set_ylim(-0.1, ends[-1] + 0.1)
    if min(lengths, default=0.0) >= 0:
        axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    plain_numbers(axis.xaxis)
    for row, level in enumerate(plot.levels):
        _draw_bar_level(axis, level, row)


def _draw_bar_level(axis: Axes, level: Level, row: int) -> None:
    """A thin line across the bars, with its label above them."""
    color = GRAY if level.color is None else color_of(level.color)
    axis.axvline(level.value, color=color, linestyle=LEVEL_DASH, linewidth=LEVEL_WIDTH)
    axis.annotate(
        legible(level.text),
        (level.value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 1 + row * LINE * SMALL),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=color,
        fontsize=SMALL,
    )
