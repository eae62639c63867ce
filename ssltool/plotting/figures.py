"""Plot records to matplotlib figures, saved as PNG, SVG or PDF; no display, no global state.

Names and titles are user text: each is drawn through `ssltool.plotting.text.legible`.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssltool.atomic import atomic_file
from ssltool.errors import UsageError
from ssltool.plotting.bars import bar_panels
from ssltool.plotting.colors import GRAY
from ssltool.plotting.lines import line_figure
from ssltool.plotting.matrix import matrix_figure
from ssltool.plotting.records import Bars, Lines, Matrix, Plot, Points
from ssltool.plotting.style import (
    DPI,
    POINT,
    TEXT,
    new_figure,
    styled,
)
from ssltool.plotting.text import as_plain_text, legible, wrap
from ssltool.plotting.ticks import STEPS, plain_numbers

FORMATS = (".png", ".svg", ".pdf")
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


def save_figure(drawn: Figure, path: Path, dpi: int = DPI) -> Path:
    """Save a figure in the format of the suffix. Equal figures give equal bytes.

    Raises:
        UsageError: The suffix is not .png, .svg or .pdf.
    """
    require_format(path)
    as_plain_text(drawn)
    FigureCanvasAgg(drawn)
    with atomic_file(path) as temporary, rc_context({"svg.hashsalt": "ssltool"}):
        drawn.savefig(
            temporary,
            format=path.suffix[1:],
            dpi=dpi,
            facecolor="white",
            metadata=_UNDATED[path.suffix],
        )
    return path


def figure(plot: Plot, title: str) -> Figure:
    """Draw one plot under its title, as wide as a column of a paper.

    A matrix whose names would not all fit is as wide as the page.
    """
    match plot:
        case Lines():
            return line_figure(plot, title)
        case Matrix():
            return matrix_figure(plot, title)
        case Points():
            return _points(plot, title)
        case Bars():
            return bar_panels([plot], title)


@styled
def _points(plot: Points, title: str) -> Figure:
    drawn = new_figure(title, 3.1)
    axis = drawn.subplots()
    axis.scatter(
        plot.x.cpu().numpy(),
        plot.y.cpu().numpy(),
        s=1.5 + 40 * plot.sizes.cpu().numpy(),
        c=plot.colors.cpu().numpy() / 255,
        edgecolors=GRAY,
        linewidths=0.15,
    )
    axis.set_aspect("equal")
    for part in (axis.xaxis, axis.yaxis):
        part.set_major_locator(MaxNLocator(6, steps=STEPS))
        plain_numbers(part)
    axis.set_xlabel("\n".join(wrap(legible(plot.x_label), TEXT, 2.8 / POINT)))
    axis.set_ylabel("\n".join(wrap(legible(plot.y_label), TEXT, 2.5 / POINT)))
    axis.grid()
    return drawn
