"""Figures of jigsaw permutation sets: grids, Hamming distances and comparisons of modes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ssltool.errors import UsageError
from ssltool.methods.jigsaw import permutations
from ssltool.methods.jigsaw.permutations import PermutationSet
from ssltool.plotting.colors import BLUE, GRAY, ORANGE
from ssltool.plotting.figures import save_figure
from ssltool.plotting.text import legible
from ssltool.visualizing.results import FigureResult

_SHOWN = 42  # permutations drawn as grids
_MATRIX = 500  # rows of a distance matrix legible in print
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


class SetSummary(BaseModel):
    """Statistics of a permutation set.

    Attributes:
        mode: How it was selected; ``file`` if it was read from one.
        count: Number of permutations K.
        grid: Tiles along a side.
        seed: It was built with; None if read from a file.
        mean: Mean Hamming distance over all pairs.
        min: Smallest distance.
        pairs_at_min: Number of pairs at the smallest distance.
        sha256: Of the permutations, row after row.
    """

    model_config = ConfigDict(frozen=True)

    mode: str
    count: int
    grid: int
    seed: int | None
    mean: float
    min: int
    pairs_at_min: int
    sha256: str

    @classmethod
    def of(cls, chosen: PermutationSet) -> Self:
        """Summarize a set."""
        return cls(
            mode=chosen.mode,
            count=chosen.count,
            grid=chosen.grid,
            seed=chosen.seed,
            mean=chosen.mean_distance,
            min=chosen.min_distance,
            pairs_at_min=chosen.pairs_at_min,
            sha256=chosen.sha256,
        )

    def __str__(self) -> str:
        return f"mean distance {self.mean:.4f}, minimum {self.min} ({_pairs(self.pairs_at_min)})"


class PermutationsFigure(FigureResult):
    """What `draw_permutations` or `compare_permutations` drew.

    Attributes:
        sets: The sets, by mode.
        refused: Mode -> why it has no set of this size.
    """

    sets: tuple[SetSummary, ...]
    refused: dict[str, str] = {}

    def summary(self) -> list[str]:
        """Statistics of each set, and the modes without one."""
        lines = [f"{chosen.mode}: {chosen}" for chosen in self.sets]
        return lines + [f"{mode}: left out, {reason}" for mode, reason in self.refused.items()]


def draw_permutations(
    path: Path,
    *,
    mode: str = "max_min",
    count: int = 100,
    grid: int = 3,
    seed: int = 0,
    file: Path | None = None,
) -> PermutationsFigure:
    """Draw a permutation set: its grids, its Hamming-distance matrix and the histogram.

    Args:
        path: File to write, PNG, SVG or PDF by its suffix.
        mode: How the set is selected, see `ssltool.methods.jigsaw.permutations.build`.
        count: Number of permutations K.
        grid: Tiles along a side.
        seed: Relabels the canonical set; 0 leaves it.
        file: Draw the set of this .npy or .bin file instead.

    Raises:
        UsageError: There is no such set, or the file holds none.
    """
    chosen = permutations.load(file) if file else permutations.build(mode, count, grid, seed)
    bound = permutations.mean_bound(chosen.count, chosen.tiles)
    name = legible(file.name) if file else mode
    title = (
        f"{chosen.count} permutations of {chosen.tiles} tiles ({name}): "
        f"Hamming distance mean {chosen.mean_distance:.4f} (at most {bound:.4f}), "
        f"minimum {chosen.min_distance} ({_pairs(chosen.pairs_at_min)})"
    )
    figure = set_figure(chosen.permutations, chosen.distances, chosen.histogram.tolist(), title)
    return PermutationsFigure(path=save_figure(figure, path), sets=(SetSummary.of(chosen),))


def compare_permutations(
    path: Path, *, count: int = 100, grid: int = 3, seed: int = 0
) -> PermutationsFigure:
    """Draw the distance histograms of the sets that all modes select for one size.

    Args:
        path: File to write, PNG, SVG or PDF by its suffix.
        count: Number of permutations K.
        grid: Tiles along a side.
        seed: Relabels the canonical sets; 0 leaves them.

    Raises:
        UsageError: No mode has a set of this size.
    """
    sets, refused = {}, {}
    for mode in permutations.MODES:
        try:
            sets[mode] = permutations.build(mode, count, grid, seed)
        except UsageError as error:
            refused[mode] = str(error)
    if not sets:
        raise UsageError(next(iter(refused.values())))
    bound = permutations.mean_bound(count, grid * grid)
    title = (
        f"{count} permutations of {grid * grid} tiles, selected by {len(sets)} modes; the mean is "
        f"{bound:.4f} at most"
    )
    summaries = [SetSummary.of(chosen) for chosen in sets.values()]
    histograms = {mode: chosen.histogram.tolist() for mode, chosen in sets.items()}
    figure = modes_figure(histograms, summaries, title)
    return PermutationsFigure(
        path=save_figure(figure, path), sets=tuple(summaries), refused=refused
    )


def set_figure(
    chosen: NDArray[np.uint8],
    distances: NDArray[np.uint8],
    histogram: Sequence[int],
    title: str,
    shown: int = _SHOWN,
) -> Figure:
    """A permutation set as colored grids, its Hamming-distance matrix and the histogram.

    Args:
        chosen: uint8 ``[K, N]``, permutations of 0..N-1; N is a square number.
        distances: uint8 ``[K, K]``, number of slots where two permutations differ.
        histogram: Pairs at distance 0..N.
        title: Drawn on top.
        shown: How many permutations are drawn as grids, from the first.
    """
    figure = Figure(figsize=(12, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    figure.suptitle(title, fontsize=12)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1.1, 1)))
    _grids(left.subplots(), chosen[:shown], len(chosen))
    top, bottom = right.subplots(2, 1, height_ratios=(1.8, 1))
    tiles = chosen.shape[1]
    every = -(-len(distances) // _MATRIX)
    end = len(distances) - 0.5
    image = top.imshow(
        distances[::every, ::every],
        cmap=colormaps["viridis"].resampled(tiles + 1),
        vmin=-0.5,
        vmax=tiles + 0.5,
        interpolation="nearest",
        extent=(-0.5, end, end, -0.5),
    )
    part = f" (1 in {every} permutations)" if every > 1 else ""
    top.set_title(f"Hamming distance of each pair{part}", fontsize=10)
    top.set_xlabel("permutation", fontsize=9)
    top.set_ylabel("permutation", fontsize=9)
    for axis in (top.xaxis, top.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    top.tick_params(labelsize=8)
    right.colorbar(image, ax=top, ticks=_ticks(tiles)).ax.tick_params(labelsize=8)
    _histogram(bottom, histogram)
    bottom.set_title("pairs at each distance", fontsize=10)
    bottom.set_xlabel("slots that differ", fontsize=9)
    bottom.set_xticks(_ticks(tiles))
    bottom.margins(y=0.12)
    return figure


def modes_figure(
    histograms: Mapping[str, Sequence[int]], summaries: Sequence[SetSummary], title: str
) -> Figure:
    """Distance histograms of several sets above one another, with their statistics.

    Args:
        histograms: Mode -> pairs at distance 0..N.
        summaries: Statistics of the same sets.
        title: Drawn on top.
    """
    figure = Figure(figsize=(8.4, 0.9 + 1.25 * len(histograms)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(histograms), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (mode, counts), facts in zip(axes, histograms.items(), summaries, strict=True):
        _histogram(axis, counts)
        axis.plot([facts.mean], [0], marker=7, markersize=9, color=ORANGE, clip_on=False, zorder=3)
        axis.margins(y=0.22)
        text = f"{mode}\nmean {facts.mean:.4f}\nminimum {facts.min}, {_pairs(facts.pairs_at_min)}"
        axis.set_ylabel(text, rotation=0, ha="left", va="center", fontsize=9, labelpad=112)
    axes[-1].set_xticks(_ticks(max(map(len, histograms.values())) - 1))
    axes[-1].set_xlabel(
        "slots that differ; bars: pairs of permutations, triangle: their mean", fontsize=9
    )
    return figure


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)}"


def _histogram(axis: Axes, counts: Sequence[int]) -> None:
    """Bars with the counts written on them, in place of a second axis."""
    bars = axis.bar(range(len(counts)), counts, color=BLUE)
    axis.bar_label(bars, [f"{count:,}" if count else "" for count in counts], fontsize=7)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _ticks(tiles: int) -> range:
    """Distances 0..N to label: all of them while there is room."""
    return range(0, tiles + 1, 1 if tiles <= 16 else 5)


def _grids(axis: Axes, chosen: NDArray[np.uint8], total: int) -> None:
    """Draw each permutation as a grid of slots, colored and numbered by the cell of the tile."""
    count, tiles = chosen.shape
    side = round(tiles**0.5)
    columns = math.ceil(math.sqrt(count * 6 / 7))
    rows = -(-count // columns)
    step = side + 1  # one free row and column, for the number of the permutation
    colors = colormaps["viridis"](np.linspace(0.05, 1, tiles))[:, :3]
    mosaic = np.ones((rows * step, columns * step - 1, 3))
    size = min(11.0, 200 / max(mosaic.shape))  # points; a slot is about twice as high
    centered: dict[str, Any] = {"ha": "center", "va": "center"}
    for i, permutation in enumerate(chosen):
        y, x = (i // columns) * step + 1, (i % columns) * step
        mosaic[y : y + side, x : x + side] = colors[permutation].reshape(side, side, 3)
        middle = x + (side - 1) / 2
        axis.text(middle, y - 0.85, str(i), fontsize=0.9 * size, color=GRAY, **centered)
        for slot, cell in enumerate(permutation):
            ink = "black" if colors[cell] @ _LUMINANCE > 0.4 else "white"
            at = (x + slot % side, y + slot // side)
            axis.text(*at, str(int(cell) + 1), fontsize=size, color=ink, **centered)
    axis.imshow(mosaic, interpolation="nearest")
    part = f"the first {count} of {total}" if total > count else f"all {total}"
    axis.set_title(f"{part}; number and color: the cell a slot's tile comes from", fontsize=10)
    axis.set_axis_off()
