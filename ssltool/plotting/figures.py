"""Plot records to matplotlib figures, saved as PNG, SVG or PDF; no display, no global state.

Names and titles are user text: each is drawn through `ssltool.plotting.text.legible`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ssltool.atomic import atomic_file
from ssltool.errors import UsageError
from ssltool.plotting.colors import GRAY, color_of
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Points
from ssltool.plotting.style import (
    COLUMN,
    DPI,
    LEVEL_WIDTH,
    LINE,
    PAGE,
    POINT,
    SMALL,
    TEXT,
    new_figure,
    styled,
)
from ssltool.plotting.text import as_plain_text, legible, shortened, text_width, wrap

FORMATS = (".png", ".svg", ".pdf")
_DASHES: tuple[Any, ...] = ("-", (0, (3, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_SLOT = 11.0  # points from one bar to the next
_STEPS = (1, 2, 2.5, 5, 10)  # between ticks
_LEVEL_DASH: Any = (0, (5, 3))
_PITCH = SMALL * 1.1  # points from one name of a row to the next
_NAME = 72.0  # points, the longest name beside a matrix
_BAR_NAME = 95.0  # points, the widest line of a bar's name
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
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
            return _lines(plot, title)
        case Matrix():
            return _matrix(plot, title)
        case Points():
            return _points(plot, title)
        case Bars():
            return bar_panels([plot], title)


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
def _lines(plot: Lines, title: str) -> Figure:
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
        axis.yaxis.set_major_locator(MaxNLocator(ticks, steps=_STEPS))
    _plain_numbers(axis.yaxis)
    if plot.log_x:
        _label_every_x(axis, plot)
    elif _categories(plot):
        _fit_categories(axis, plot)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(ticks, steps=_STEPS))
        _plain_numbers(axis.xaxis)
    return curves


def _categories(plot: Lines) -> bool:
    return any(isinstance(x, str) for series in plot.series.values() for x in series.x[:1])


def _plain_numbers(axis: Axis) -> None:
    """Write ticks as numbers of their own, without a power or an offset beside the axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def number(value: float) -> str:
    """A tick's number in few characters: ``0.5``, ``20k``, ``1e-5``."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.6g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.6g}k"
    return f"{value:.6g}".replace("e-0", "e-")


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
    texts = [shortened(legible(name), SMALL, _NAME) for name in names]
    pitch = 0.75 * _width(axis) / POINT / max(1, len(names))
    flat = max(text_width(text, SMALL) for text in texts) + 3 < pitch
    axis.set_xticks(range(len(names)), texts, rotation=0 if flat else 90)


def _draw_levels(axis: Axes, plot: Lines, *, named: bool) -> dict[str, Artist]:
    """Thin lines across, with their values at the right edge; lines for a legend by label."""
    lines: dict[str, Artist] = {}
    for level in plot.levels:
        color = GRAY if level.color is None else color_of(level.color)
        style: dict[str, Any] = {"color": color, "linestyle": _LEVEL_DASH, "linewidth": LEVEL_WIDTH}
        axis.axhline(level.value, zorder=1.5, **style)
        lines[level.label] = Line2D([], [], color=GRAY, linestyle=_LEVEL_DASH, linewidth=0.9)
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


_EDGE = "level"  # id of the labels at the right edge


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


@styled
def _matrix(plot: Matrix, title: str) -> Figure:
    """A heat map with its values written in where they fit, and a color bar as tall as it.

    Where rows or columns are too many to be named one by one, every so many are, which the labels
    of the axes say.
    """
    values = plot.values.cpu().double().numpy()
    height, width = values.shape
    rows = [shortened(legible(name), SMALL, _NAME) for name in plot.rows]
    columns = [shortened(legible(name), SMALL, _NAME) for name in plot.columns]
    longest = max(text_width(name, SMALL) for name in rows)
    beside = longest + 62  # points: names, label and color bar
    side = COLUMN / POINT - beside
    wide = side / max(width, height) < _PITCH
    if wide:
        side = PAGE / POINT - beside
    cell = min(side / max(width, height), 34.0)  # points
    upright = max(text_width(name, SMALL) for name in columns) + 0.6 > cell
    below = max(text_width(name, SMALL) for name in columns) if upright else SMALL
    tall = (cell * height + below + 2.5 * TEXT + 8) * POINT
    drawn = new_figure(title, tall, PAGE if wide else COLUMN)
    axis = drawn.subplots()
    norm = _scale(plot, values)
    image = axis.imshow(values, cmap="Blues", norm=norm, interpolation="nearest")
    # Inside of the axes, whose height it keeps whatever becomes of their aspect.
    bar = drawn.colorbar(image, cax=axis.inset_axes((1.02, 0, 8 / (cell * width), 1)))
    bar.outline.set_visible(False)
    if isinstance(norm, PowerNorm):
        bar.set_ticks([norm.vmin + s * (norm.vmax - norm.vmin) for s in (0, 0.05, 0.2, 0.5, 1)])  # type: ignore[operator]
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    _plain_numbers(bar.ax.yaxis)
    if plot.value_label:
        bar.set_label("\n".join(wrap(legible(plot.value_label), TEXT, max(60.0, cell * height))))
    _write_values(axis, plot, values, norm, cell)
    every = max(1, -(-_PITCH // cell)) if cell < _PITCH else 1
    step = int(every)
    axis.set_xticks(range(0, width, step), columns[::step], rotation=90 if upright else 0)
    axis.set_yticks(range(0, height, step), rows[::step])
    if height > 40:
        axis.tick_params(length=1)
    axis.spines[:].set_visible(True)
    part = f" (1 in {step} is named)" if step > 1 else ""
    axis.set_xlabel("\n".join(wrap(legible(plot.column_label) + part, TEXT, max(120, side))))
    axis.set_ylabel("\n".join(wrap(legible(plot.row_label) + part, TEXT, max(60, cell * height))))
    return drawn


def _scale(plot: Matrix, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Normalize:
    low, high = plot.limits or (float(values.min()), float(values.max()))
    high = high if high > low else low + 1.0
    return PowerNorm(0.5, low, high) if plot.small_values else Normalize(low, high)


def _write_values(
    axis: Axes,
    plot: Matrix,
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    norm: Normalize,
    cell: float,
) -> None:
    """Write the values into the cells, if ``cell`` points are enough for the longest."""
    if cell < text_width("0", SMALL) * 2:
        return
    texts = {at: f"{value:.{plot.digits}f}" for at, value in np.ndenumerate(values)}
    if max(text_width(text, SMALL) for text in texts.values()) + 2 > cell:
        return
    shades = colormaps["Blues"](norm(values))[..., :3] @ _LUMINANCE
    for (y, x), text in texts.items():
        ink = "black" if shades[y, x] > 0.45 else "white"
        axis.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=ink)


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
        part.set_major_locator(MaxNLocator(6, steps=_STEPS))
        _plain_numbers(part)
    axis.set_xlabel("\n".join(wrap(legible(plot.x_label), TEXT, 2.8 / POINT)))
    axis.set_ylabel("\n".join(wrap(legible(plot.y_label), TEXT, 2.5 / POINT)))
    axis.grid()
    return drawn


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
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    _plain_numbers(axis.xaxis)
    for row, level in enumerate(plot.levels):
        _draw_bar_level(axis, level, row)


def _draw_bar_level(axis: Axes, level: Level, row: int) -> None:
    """A thin line across the bars, with its label above them."""
    color = GRAY if level.color is None else color_of(level.color)
    axis.axvline(level.value, color=color, linestyle=_LEVEL_DASH, linewidth=LEVEL_WIDTH)
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
