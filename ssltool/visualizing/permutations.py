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
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ssltool.errors import UsageError
from ssltool.methods.jigsaw import permutations
from ssltool.methods.jigsaw.permutations import PermutationSet
from ssltool.plotting.colors import BLUE, GRAY, ORANGE
from ssltool.plotting.figures import save_figure
from ssltool.plotting.style import COLUMN, POINT, SMALL, new_figure, styled
from ssltool.plotting.text import legible, text_width
from ssltool.visualizing.results import FigureResult

_GRIDS = {2: 21, 3: 18, 4: 8, 5: 6}  # permutations drawn, by tiles along a side
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


@styled
def set_figure(
    chosen: NDArray[np.uint8],
    distances: NDArray[np.uint8],
    histogram: Sequence[int],
    title: str,
    shown: int = 21,
) -> Figure:
    """A permutation set as colored grids, its Hamming-distance matrix and the histogram.

    Args:
        chosen: uint8 ``[K, N]``, permutations of 0..N-1; N is a square number.
        distances: uint8 ``[K, K]``, number of slots where two permutations differ.
        histogram: Pairs at distance 0..N.
        title: Drawn on top.
        shown: Most permutations to draw as grids, from the first; fewer of large grids.
    """
    tiles = chosen.shape[1]
    shown = min(shown, _GRIDS[math.isqrt(tiles)], len(chosen))
    rows = -(-shown // _columns(tiles))
    heights = (rows * COLUMN / _columns(tiles) + 0.3, 2.7, 1.25)
    figure = new_figure(title, sum(heights))
    top, middle, bottom = figure.subplots(3, 1, height_ratios=heights)
    _grids(top, chosen[:shown], len(chosen))
    every = -(-len(distances) // _MATRIX)
    end = len(distances) - 0.5
    image = middle.imshow(
        distances[::every, ::every],
        cmap=colormaps["viridis"].resampled(tiles + 1),
        vmin=-0.5,
        vmax=tiles + 0.5,
        interpolation="nearest",
        extent=(-0.5, end, end, -0.5),
    )
    part = f" (1 in {every} permutations)" if every > 1 else ""
    middle.set_title(f"Hamming distance of each pair{part}")
    middle.set_xlabel("permutation")
    middle.set_ylabel("permutation")
    for axis in (middle.xaxis, middle.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    bar = figure.colorbar(image, cax=middle.inset_axes((1.03, 0, 0.04, 1)), ticks=_ticks(tiles))
    bar.set_label("slots that differ")
    _histogram(bottom, histogram)
    bottom.set_title("pairs at each distance")
    bottom.set_xlabel("slots that differ")
    bottom.set_xticks(_ticks(tiles))
    bottom.margins(y=0.15)
    return figure


@styled
def modes_figure(
    histograms: Mapping[str, Sequence[int]], summaries: Sequence[SetSummary], title: str
) -> Figure:
    """Distance histograms of several sets above one another, with their statistics.

    Args:
        histograms: Mode -> pairs at distance 0..N.
        summaries: Statistics of the same sets.
        title: Drawn on top.
    """
    figure = new_figure(title, 0.35 + 0.85 * len(histograms))
    axes = figure.subplots(len(histograms), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (mode, counts), facts in zip(axes, histograms.items(), summaries, strict=True):
        _histogram(axis, counts)
        axis.plot([facts.mean], [0], marker=7, markersize=5, color=ORANGE, clip_on=False, zorder=3)
        axis.margins(y=0.28)
        axis.set_title(f"{mode}: {facts}")
    axes[-1].set_xticks(_ticks(max(map(len, histograms.values())) - 1))
    axes[-1].set_xlabel("slots that differ; bars: pairs of permutations, triangle: mean")
    return figure


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)}"


def _histogram(axis: Axes, counts: Sequence[int]) -> None:
    """Bars with the counts written on them, in place of a second axis.

    Where the counts do not fit beside one another they are rounded, and where these do not, the
    smallest distance and the largest count are written.
    """
    bars = axis.bar(range(len(counts)), counts, color=BLUE)
    texts = [f"{count:,}" if count else "" for count in counts]
    pitch = 0.9 * COLUMN / POINT / len(counts)

    def fit() -> bool:
        return max(text_width(text, SMALL) for text in texts) + 1 <= pitch

    if not fit():
        texts = [
            f"{count / 1000:.3g}k" if count >= 10_000 else text
            for text, count in zip(texts, counts, strict=True)
        ]
    if not fit():
        first = next(i for i, count in enumerate(counts) if count)
        kept = {first, int(np.argmax(counts))}
        texts = [text if i in kept else "" for i, text in enumerate(texts)]
    axis.bar_label(bars, texts, fontsize=SMALL)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)


def _ticks(tiles: int) -> range:
    """Distances 0..N to label: all of them while there is room."""
    return range(0, tiles + 1, 1 if tiles <= 16 else 5)


def _columns(tiles: int) -> int:
    """Grids in a row, as many as leave a slot room for its number."""
    return {4: 7, 9: 6, 16: 4}.get(tiles, 3)


def _grids(axis: Axes, chosen: NDArray[np.uint8], total: int) -> None:
    """Draw each permutation as a grid of slots, colored and numbered by the cell of the tile."""
    count, tiles = chosen.shape
    side = round(tiles**0.5)
    columns = min(_columns(tiles), count)
    rows = -(-count // columns)
    step = side + 1  # one free row and column, for the number of the permutation
    colors = colormaps["viridis"](np.linspace(0, 1, tiles))[:, :3]
    mosaic = np.ones((rows * step, columns * step - 1, 3))
    centered: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL}
    for i, permutation in enumerate(chosen):
        y, x = (i // columns) * step + 1, (i % columns) * step
        mosaic[y : y + side, x : x + side] = colors[permutation].reshape(side, side, 3)
        middle = x + (side - 1) / 2
        axis.text(middle, y - 0.95, str(i), color=GRAY, **centered)
        for slot, cell in enumerate(permutation):
            ink = "black" if colors[cell] @ _LUMINANCE > 0.4 else "white"
            at = (x + slot % side, y + slot // side)
            axis.text(*at, str(int(cell) + 1), color=ink, **centered)
    axis.imshow(mosaic, interpolation="nearest")
    part = f"the first {count} of {total}" if total > count else f"all {total}"
    axis.set_title(f"{part}; number and color:\nthe cell a slot's tile comes from")
    axis.set_axis_off()
