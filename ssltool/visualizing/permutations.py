"""Images of a task, of what a network answers, of features, filters, permutation sets and training
curves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssltool.errors import UsageError
from ssltool.methods.jigsaw import permutations
from ssltool.plotting import charts as chart
from ssltool.plotting.units import said as said


def draw_permutations(
    path: Path,
    *,
    mode: str = "max_min",
    count: int = 100,
    grid: int = 3,
    seed: int = 0,
    file: Path | None = None,
) -> dict[str, Any]:
    """Draw a permutation set: its grids, its Hamming-distance matrix and histogram, statistics in
    the title.

    Args:
        path: File to write, PNG, SVG or PDF by its suffix.
        mode: How the set is chosen, see `ssltool.methods.jigsaw.permutations.build`.
        count: Number of permutations K.
        grid: Cells along a side.
        seed: Relabels the canonical set; 0 leaves it.
        file: Draw the set of this .npy or .bin file instead.

    Returns:
        The set's facts and the path.
    """
    chosen = permutations.load(file) if file else permutations.build(mode, count, grid, seed)
    facts = chosen.facts()
    name = file.name if file else mode
    title = (
        f"{chosen.count} permutations of {chosen.tiles} tiles ({name}): Hamming distance "
        f"mean {chosen.mean_distance:.4f} (at most "
        f"{permutations.mean_bound(chosen.count, chosen.tiles):.4f}), "
        f"least {chosen.min_distance} ({chosen.pairs_at_min:,} "
        f"pair{'s' * (chosen.pairs_at_min != 1)})"
    )
    figure = chart.permutation_set(
        chosen.permutations, chosen.distances, [int(n) for n in chosen.histogram], title
    )
    return {**facts, "path": str(chart.save_figure(figure, path))}


def compare_permutations(
    path: Path, *, count: int = 100, grid: int = 3, seed: int = 0
) -> dict[str, Any]:
    """Draw the sets that all modes choose for one size: histograms of their distances above one
    another, statistics.

    Args:
        path: File to write, PNG, SVG or PDF by its suffix.
        count: Number of permutations K.
        grid: Cells along a side.
        seed: Relabels the canonical sets; 0 leaves them.

    Returns:
        The facts of each mode's set, the modes that have none of this size with the reason, and the
        path.
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
    figure = chart.permutation_modes(
        {mode: [int(n) for n in found.histogram] for mode, found in sets.items()},
        {
            mode: (found.mean_distance, found.min_distance, found.pairs_at_min)
            for mode, found in sets.items()
        },
        f"{count} permutations of {grid * grid} tiles, chosen in {len(sets)} ways; the mean can "
        f"be {bound:.4f} at most",
    )
    facts = {mode: found.facts() for mode, found in sets.items()}
    return {"modes": facts, "refused": refused, "path": str(chart.save_figure(figure, path))}
