"""Numbers -> figures: training curves, permutation sets. Matplotlib's object interface, no global
state, no display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ssltool.atomic import atomic_file
from ssltool.errors import UsageError
from ssltool.plotting.units import headed, is_share

BLUE, ORANGE, GREY = (
    "#0072b2",
    "#d55e00",
    "#777777",
)  # told apart with any color vision (Okabe & Ito 2008)
OKABE_ITO = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MATRIX = 500  # rows of a distance matrix that can be told apart in print
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def save_figure(figure: Figure, path: Path) -> Path:
    """Save a figure; the suffix says the format (.png, .svg, .pdf). The same figure gives the same
    bytes.

    Raises:
        UsageError: Another suffix.
    """
    kind = path.suffix.lstrip(".")
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    if kind not in undated:
        raise UsageError(f"--to {path}: charts are written as .png, .svg or .pdf")
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary, rc_context({"svg.hashsalt": "ssltool"}):
        figure.savefig(temporary, format=kind, dpi=150, metadata=undated[kind])
    return path


def curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    chance: Mapping[str, Mapping[str, float]],
    title: str,
) -> Figure:
    """Loss, the methods' numbers and the learning rate over steps, each with its chance level
    dashed.

    Args:
        runs: Run's name -> lines of its ``metrics.jsonl``; several are told apart by color and
            dash.
        chance: Run's name -> number's name -> value for a network that knows nothing.
        title: Drawn on top.
    """
    hidden = {"step", "epoch", "images_per_s", "data_wait"}
    known_names = (name for lines in runs.values() for line in lines for name in line)
    names = list(dict.fromkeys(name for name in known_names if name not in hidden))
    columns = 2 if len(names) in {2, 4} else min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    styles = dict(
        zip(runs, zip(cycle(OKABE_ITO), cycle(("-", "--", "-.", ":")), strict=False), strict=False)
    )
    for name, axis in zip(
        names, grid, strict=False
    ):  # names first: their end takes no place from the grid
        scale = 100 if is_share(name) else 1
        for run, lines in runs.items():
            known = [line for line in lines if name in line]
            x, values = [line["step"] for line in known], [scale * line[name] for line in known]
            color, dash = styles[run]
            dot = "o" if len(x) == 1 else None
            axis.plot(x, values, color=color, linestyle=dash, linewidth=1.3, marker=dot, label=run)
        _levels(
            axis,
            {run: scale * chance[run][name] for run in runs if name in chance.get(run, {})},
            styles,
        )
        axis.set_title(headed(name), fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    for axis in list(grid):  # the iterator's rest: places without a number
        axis.set_visible(False)
    if len(runs) > 1:
        figure.legend(
            handles=figure.axes[0].lines[: len(runs)],
            loc="outside lower center",
            ncols=4,
            fontsize=9,
        )
    return figure


def _levels(axis: Axes, levels: Mapping[str, float], styles: Mapping[str, tuple[str, str]]) -> None:
    """Draw chance levels across, each once; its words stand at the right, on the side that has more
    room.
    """
    low, high = axis.get_ylim()
    for value in dict.fromkeys(levels.values()):
        of = [run for run, level in levels.items() if level == value]
        alone = len(of) < len(levels)
        color = styles[of[0]][0] if alone else ORANGE if len(styles) == 1 else GREY
        words = f"chance {value:.3g}" + (f" of {', '.join(of)}" if alone else "")
        axis.axhline(value, color=color, linestyle=(0, (4, 3)), linewidth=1)
        below = value > (low + high) / 2
        axis.annotate(
            words,
            (0.98, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if below else 3),
            textcoords="offset points",
            ha="right",
            va="top" if below else "bottom",
            color=color,
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )
    axis.margins(y=0.08)


def permutation_set(
    permutations: NDArray[np.uint8],
    distances: NDArray[np.uint8],
    histogram: Sequence[int],
    title: str,
    shown: int = 42,
) -> Figure:
    """A permutation set as colored grids, its Hamming-distance matrix and the histogram of
    distances.

    Args:
        permutations: uint8 ``[K, N]``, 0-based; N is a square number.
        distances: uint8 ``[K, K]``, number of slots where two permutations differ.
        histogram: Pairs at distance 0..N.
        title: Drawn on top, with the statistics.
        shown: How many permutations are drawn as grids, from the first.
    """
    figure = Figure(figsize=(12, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    figure.suptitle(title, fontsize=12)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1.1, 1)))
    _grids(left.subplots(), permutations[:shown], len(permutations))
    top, bottom = right.subplots(2, 1, height_ratios=(1.8, 1))
    tiles = permutations.shape[1]
    steps = colormaps["viridis"].resampled(tiles + 1)
    every = -(-len(distances) // _MATRIX)
    extent = (-0.5, len(distances) - 0.5, len(distances) - 0.5, -0.5)
    image = top.imshow(
        distances[::every, ::every],
        cmap=steps,
        vmin=-0.5,
        vmax=tiles + 0.5,
        interpolation="nearest",
        extent=extent,
    )
    some = f" (1 in {every} permutations)" if every > 1 else ""
    top.set_title(f"Hamming distance of each pair{some}", fontsize=10)
    top.set_xlabel("permutation", fontsize=9)
    top.set_ylabel("permutation", fontsize=9)
    for axis in (top.xaxis, top.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    top.tick_params(labelsize=8)
    right.colorbar(image, ax=top, ticks=_ticks(tiles)).ax.tick_params(labelsize=8)
    _bars(bottom, histogram)
    return figure


def _bars(axis: Axes, histogram: Sequence[int]) -> None:
    """Draw the pairs at each distance; the numbers stand on the bars, so there is no second axis."""
    bars = axis.bar(range(len(histogram)), histogram, color=BLUE)
    axis.bar_label(bars, [f"{count:,}" if count else "" for count in histogram], fontsize=7)
    axis.set_title("pairs at each distance", fontsize=10)
    axis.set_xlabel("slots that differ", fontsize=9)
    axis.set_xticks(_ticks(len(histogram) - 1))
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    axis.margins(y=0.12)
    axis.spines[["top", "right", "left"]].set_visible(False)


def permutation_modes(
    histograms: Mapping[str, Sequence[int]],
    statistics: Mapping[str, tuple[float, int, int]],
    title: str,
) -> Figure:
    """Permutation sets chosen in several ways, one above the other: pairs at each distance, and
    what they amount to.

    Args:
        histograms: Mode -> pairs at distance 0..N.
        statistics: Mode -> mean distance, least distance, pairs at the least distance.
        title: Drawn on top.
    """
    figure = Figure(figsize=(8.4, 0.9 + 1.25 * len(histograms)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(histograms), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (mode, counts) in zip(axes, histograms.items(), strict=True):
        mean, least, pairs = statistics[mode]
        bars = axis.bar(range(len(counts)), counts, color=BLUE)
        axis.bar_label(bars, [f"{count:,}" if count else "" for count in counts], fontsize=7)
        axis.plot([mean], [0], marker=7, markersize=9, color=ORANGE, clip_on=False, zorder=3)
        axis.margins(y=0.22)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        words = f"{mode}\nmean {mean:.4f}\nleast {least}, {pairs:,} pair{'s' * (pairs != 1)}"
        axis.set_ylabel(words, rotation=0, ha="left", va="center", fontsize=9, labelpad=112)
        axis.tick_params(labelsize=8)
    axes[-1].set_xticks(_ticks(len(next(iter(histograms.values()))) - 1))
    axes[-1].set_xlabel(
        "slots that differ; bars: pairs of permutations, triangle: their mean", fontsize=9
    )
    return figure


def _ticks(tiles: int) -> range:
    """Distances 0..N to label: all of them while there is room."""
    return range(0, tiles + 1, 1 if tiles <= 16 else 5)


def _grids(axis: Axes, permutations: NDArray[np.uint8], total: int) -> None:
    """Draw each permutation as its grid of slots, colored and numbered by the cell the tile comes
    from.
    """
    count, tiles = permutations.shape
    side = round(tiles**0.5)
    columns = math.ceil(math.sqrt(count * 6 / 7))
    rows = -(-count // columns)
    step = side + 1  # one free row and column, for the number of the permutation
    colors = colormaps["turbo"](np.linspace(0.08, 0.92, tiles))[:, :3]
    mosaic = np.ones((rows * step, columns * step - 1, 3))
    size = min(11.0, 200 / max(mosaic.shape))  # points; a slot is about twice as high
    for i, permutation in enumerate(permutations):
        y, x = (i // columns) * step + 1, (i % columns) * step
        mosaic[y : y + side, x : x + side] = colors[permutation].reshape(side, side, 3)
        axis.text(
            x + (side - 1) / 2,
            y - 0.85,
            str(i),
            ha="center",
            va="center",
            fontsize=0.9 * size,
            color=GREY,
        )
        for slot, cell in enumerate(permutation):
            ink = "black" if colors[cell] @ _LUMINANCE > 0.4 else "white"
            place = (x + slot % side, y + slot // side)
            axis.text(
                *place, str(int(cell) + 1), ha="center", va="center", fontsize=size, color=ink
            )
    axis.imshow(mosaic, interpolation="nearest")
    known = f"the first {count} of {total}" if total > count else f"all {total}"
    axis.set_title(f"{known}; number and color: the cell a slot's tile comes from", fontsize=10)
    axis.set_axis_off()


def matrix(
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    column_label: str,
    *,
    title: str,
    value_label: str = "",
    digits: int = 2,
) -> Figure:
    """A table as a heat map with its numbers written in; large tables keep the colors alone.

    Args:
        values: ``[R, C]``.
        rows: Names of the rows.
        columns: Names of the columns.
        row_label: What the rows are.
        column_label: What the columns are.
        title: Drawn on top.
        value_label: What the colors are.
        digits: Of the numbers, after the point.
    """
    side = max(len(rows), len(columns))
    cell = (
        0.55 if side <= 20 else 0.26
    )  # inches; the names of more rows stand closer, without numbers between them
    figure = Figure(
        figsize=(max(5.0, cell * len(columns) + 2), max(4.0, cell * len(rows) + 1.5)),
        layout="constrained",
    )
    axis = figure.subplots()
    image = axis.imshow(values, cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axis, label=value_label)
    if side <= 20:
        middle = (values.min() + values.max()) / 2
        for (y, x), value in np.ndenumerate(values):
            ink = "black" if value > middle else "white"
            axis.text(x, y, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=ink)
    axis.set_xticks(
        range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 4 else 0, fontsize=8
    )
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xlabel(column_label)
    axis.set_ylabel(row_label)
    axis.set_title(title, fontsize=10)
    return figure


def bars(
    values: Mapping[str, float],
    label: str,
    *,
    title: str,
    deviations: Mapping[str, float] | None = None,
) -> Figure:
    """Horizontal bars from the largest to the smallest, the numbers written beside them.

    Args:
        values: Name -> length.
        label: What the lengths are.
        title: Drawn on top.
        deviations: Name -> half the width of an error bar, where known.
    """
    names = sorted(values, key=lambda name: values[name])
    figure = Figure(figsize=(6.4, max(2.4, 0.24 * len(names) + 1.2)), layout="constrained")
    axis = figure.subplots()
    errors = [(deviations or {}).get(name, 0.0) for name in names] if deviations else None
    drawn = axis.barh(names, [values[name] for name in names], xerr=errors, color=BLUE)
    axis.bar_label(drawn, [f"{values[name]:.1f}" for name in names], fontsize=8, padding=3)
    axis.set_xlabel(label)
    figure.suptitle(title, fontsize=10)  # over the names, too
    axis.tick_params(labelsize=8)
    axis.margins(x=0.12, y=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def lines(
    x: Sequence[float],
    y: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    *,
    title: str,
    log_x: bool = False,
) -> Figure:
    """Curves over one axis, told apart by color and by dash.

    Args:
        x: Numbers ``[n]``.
        y: Curve's name -> numbers ``[n]``.
        x_label: What x is.
        y_label: What y is.
        title: Drawn on top.
        log_x: Give each x a place by its logarithm and a tick with its value; the points are
            marked.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    dotted = "o" if len(x) == 1 or log_x else None
    styles = zip(cycle(OKABE_ITO), cycle(("-", "--", "-.", ":")), strict=False)
    for (name, values), (color, dash) in zip(y.items(), styles, strict=False):
        axis.plot(
            x,
            values,
            label=name,
            color=color,
            linestyle=dash,
            linewidth=1.6,
            marker=dotted,
            markersize=4,
        )
    if log_x:
        axis.set_xscale("log")
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return figure


def points(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    colors: NDArray[np.uint8],
    sizes: NDArray[np.float64],
    x_label: str,
    y_label: str,
    *,
    title: str,
) -> Figure:
    """Colored points in a plane with equal axes.

    Args:
        x: ``[n]``.
        y: ``[n]``.
        colors: uint8 ``[n, 3]``.
        sizes: ``[n]`` in 0..1, area of each point.
        x_label: What x is.
        y_label: What y is.
        title: Drawn on top.
    """
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axis = figure.subplots()
    axis.scatter(x, y, s=4 + 120 * sizes, c=colors / 255, edgecolors=GREY, linewidths=0.3)
    axis.set_aspect("equal")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25)
    return figure


def filters(kernels: NDArray[np.float64], title: str) -> Figure:
    """First-layer kernels as small images: mid-gray is a weight of 0, each kernel's largest weight
    is full color.

    Args:
        kernels: ``[C_out, C_in, k, k]``; of 1 or 3 channels as gray or color, of others each
            channel's mean.
        title: Drawn on top.
    """
    count = len(kernels)
    columns = min(16, count)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(max(5.0, 0.62 * columns + 0.3), 0.66 * rows + 0.6), layout="constrained"
    )
    figure.suptitle(title, fontsize=10)
    drawn = kernels if kernels.shape[1] == 3 else kernels.mean(axis=1, keepdims=True)
    largest = np.abs(drawn).max(axis=(1, 2, 3), keepdims=True)
    images = (0.5 + 0.5 * drawn / np.maximum(largest, 1e-12)).transpose(0, 2, 3, 1)
    for i, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.set_axis_off()
        if i < count:
            image = images[i] if images.shape[-1] == 3 else images[i, ..., 0]
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure
