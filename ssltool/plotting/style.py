"""One style for all figures: sizes of a paper's column, dark text on white.

Figures are drawn at the width at which they are printed, so that a text of 6 points has 6 points
on the page. The background is opaque, and stays legible on a dark page.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.figure import Figure

from ssltool.plotting.text import legible, wrap

COLUMN = 3.35  # inches: 8.5 cm, a column of a paper
PAGE = 7.0  # both columns
DPI = 300
POINT = 1 / 72  # inches
TITLE, TEXT, SMALL = 8.0, 7.0, 6.0  # points
LINE = 1.2  # height of a line of text per size
LEVEL_WIDTH = 0.6  # points, of reference lines: thinner than curves
LEVEL_DASH: Any = (0, (5, 3))  # of reference lines

_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": TEXT,
    "figure.titlesize": TITLE,
    "axes.titlesize": TEXT,
    "axes.titlepad": 3.0,
    "axes.labelsize": TEXT,
    "axes.labelpad": 2.0,
    "axes.linewidth": 0.5,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.4,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "legend.fontsize": TEXT,
    "legend.frameon": False,
    "legend.handlelength": 1.9,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.6,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Have a function draw in the style of all figures."""

    @wraps(draw)
    def within(*args: P.args, **options: P.kwargs) -> R:
        with rc_context(_STYLE):
            return draw(*args, **options)

    return within


def new_figure(title: str, height: float, width: float = COLUMN) -> Figure:
    """A figure under its title, which is wrapped.

    Args:
        title: User text on top.
        height: In inches, without the title.
        width: In inches.
    """
    lines = title_lines(title, width)
    drawn = Figure(figsize=(width, height + title_height(title, width)), layout="constrained")
    if lines:
        drawn.suptitle("\n".join(lines), linespacing=1.1)
    return drawn


def title_lines(title: str, width: float) -> list[str]:
    """The lines of a title, legible and no wider than ``width`` inches."""
    return wrap(legible(title), TITLE, (width - 0.1) / POINT)


def title_height(title: str, width: float) -> float:
    """Height of a title in inches."""
    return (len(title_lines(title, width)) * LINE * TITLE + 4) * POINT if title else 0.0
