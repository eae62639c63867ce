"""Build times and Hamming distances of the permutation sets of nine tiles.

    python benchmarks/permutations.py [--json]

Three tables: seconds to build 1000 permutations in each mode; the paper's greedy mode against a
straightforward implementation, which recomputes all distances for each permutation it adds; and
mean and minimum distance of each mode next to the upper bound of the mean. Times are CPU-seconds,
medians of interleaved repeats. Needs scipy, for the straightforward implementation (part of
``pip install 'ssltool[test]'``).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ssltool.methods.jigsaw import permutations

MODES = [mode for mode in permutations.MODES if mode != "all"]  # that one is for four tiles
COUNTS = (1000, 100, 95, 85, 71, 35, 10, 7, 6)
BUILD_COUNT = 1000
COMPARED_COUNT = 60  # the straightforward implementation is quadratic in this


def straightforward(candidates: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Greedy selection by mean distance, recomputing all distances at each step.

    Args:
        candidates: float64 ``[M, n]``, all permutations.
        count: Number of permutations K.

    Returns:
        ``[K, n]``.
    """
    selected = candidates[:1]
    left = candidates[1:]
    while len(selected) < count:
        best = cdist(selected, left, metric="hamming").mean(axis=0).argmax()
        selected = np.append(selected, left[best : best + 1], axis=0)
        left = np.delete(left, best, axis=0)
    return selected


def cpu_seconds(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU-seconds of each function over interleaved repeats."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            taken[name].append(time.process_time() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


def compare() -> dict[str, float]:
    """Greedy mode of ssltool, from scratch, against the straightforward implementation, which is
    given the table of all permutations.
    """
    table = permutations.lexicographic(9).T.astype(np.float64)
    ours = partial(permutations.build, "max_mean", COMPARED_COUNT)
    theirs = partial(straightforward, table, COMPARED_COUNT)
    seconds = cpu_seconds({"ssltool": ours, "straightforward": theirs}, repeats=3)
    their_set = permutations.PermutationSet(theirs().astype(np.uint8), "max_mean", 3)
    return {
        "permutations": COMPARED_COUNT,
        **seconds,
        "ratio": seconds["straightforward"] / seconds["ssltool"],
        "mean_ssltool": ours().mean_distance,
        "mean_straightforward": their_set.mean_distance,
    }


def quality() -> list[dict[str, float]]:
    """One row per count: upper bound of the mean, then mean and minimum distance of each mode."""
    rows = []
    for count in COUNTS:
        row: dict[str, float] = {"permutations": count, "bound": permutations.mean_bound(count)}
        for mode in MODES:
            built = permutations.build(mode, count)
            row[f"{mode}_mean"], row[f"{mode}_min"] = built.mean_distance, built.min_distance
        rows.append(row)
    return rows


def report(
    build_times: dict[str, float], comparison: dict[str, float], rows: list[dict[str, float]]
) -> None:
    print(f"Building {BUILD_COUNT} permutations of 9 tiles, CPU-seconds")
    for mode, seconds in build_times.items():
        print(f"  {mode:10} {seconds:7.3f}")
    print(f"\nGreedy by mean distance, {COMPARED_COUNT} permutations, CPU-seconds (mean distance)")
    for name in ("ssltool", "straightforward"):
        print(f"  {name:16} {comparison[name]:8.3f}   ({comparison[f'mean_{name}']:.4f})")
    print(f"  ratio            {comparison['ratio']:8.1f}")
    print("\nMean / minimum distance, seed 0")
    print("     K   bound " + "".join(f"{mode:>12}" for mode in MODES))
    for row in rows:
        cells = "".join(f"  {row[f'{mode}_mean']:.4f} / {row[f'{mode}_min']}" for mode in MODES)
        print(f"{row['permutations']:6}  {row['bound']:.4f}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build times and distances of the permutation sets of nine tiles."
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    as_json = parser.parse_args().json
    build_times = cpu_seconds(
        {mode: partial(permutations.build, mode, BUILD_COUNT) for mode in MODES}, repeats=5
    )
    comparison, rows = compare(), quality()
    if not as_json:
        report(build_times, comparison, rows)
        return
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    results = {"build_seconds": build_times, "comparison": comparison, "quality": rows}
    print(json.dumps({**results, "versions": versions, "machine": platform.machine()}, indent=2))


if __name__ == "__main__":
    main()
