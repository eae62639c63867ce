"""Permutation sets for the jigsaw task: built by Hamming distance, or read from files.

Noroozi & Favaro 2016, Algorithm 1, and sets with a larger minimum distance.

Letters: n = g*g tiles of a g x g grid, K permutations, M candidates. A permutation p shows in slot
i the tile of cell p[i]: ``shown[i] = tile[p[i]]``; its inverse restores the image. The distance of
two permutations is the number of slots where they differ (Hamming), at least 2.

NumPy only: the result is the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssltool.arrays import parse_array
from ssltool.atomic import atomic_file
from ssltool.documents import DocumentError, read_bytes
from ssltool.errors import UnknownNameError, UsageError
from ssltool.methods.jigsaw.codes import LARGEST_CODE, Bytes, Ints, closed_form

Ties = Literal["random", "first"]

MODES = ("max_min", "max_mean", "min_mean", "random", "code", "all")
GRIDS = range(2, 6)
# The K x K distances then take at most 100 MB, and no published set is larger.
LARGEST_COUNT = 10_000
_LARGEST_FILE = LARGEST_COUNT * GRIDS[-1] ** 2 * 8 + 2**16  # bytes: int64 and a header
# 16! and 25! cannot be enumerated; the greedy modes then choose among this many random
# permutations.
POOL_SIZE = 20_000
# Added to the score of a chosen candidate so that it is never the best again; far beyond K*n, far
# from overflowing.
_CHOSEN = -(2**30)


@dataclass(frozen=True, eq=False)
class PermutationSet:
    """K different permutations of n tiles, with their distances.

    Args:
        permutations: uint8 ``[K, n]``, each row a permutation of 0..n-1; copied and made read-only.
            K is at least 2.
        mode: How they were chosen: one of ``MODES``, or ``"file"``.
        grid: Tiles along each side, ``grid * grid == n``.
        seed: The seed they were built with; None when read from a file.
    """

    permutations: Bytes
    mode: str
    grid: int
    seed: int | None = None

    def __post_init__(self) -> None:
        rows = np.array(self.permutations, dtype=np.uint8, order="C")
        rows.flags.writeable = False
        object.__setattr__(self, "permutations", rows)

    @property
    def count(self) -> int:
        """K, the number of permutations."""
        return len(self.permutations)

    @property
    def tiles(self) -> int:
        """n, the number of tiles."""
        return int(self.permutations.shape[1])

    @cached_property
    def distances(self) -> Bytes:
        """Hamming distance of every two, uint8 ``[K, K]``, zero on the diagonal; read-only."""
        columns = np.ascontiguousarray(self.permutations.T)
        table = np.stack([hamming(columns, row) for row in self.permutations])
        table.flags.writeable = False
        return table

    @cached_property
    def histogram(self) -> Ints:
        """Number of pairs at each distance 0..n, int64 ``[n + 1]``; sums to K(K-1)/2."""
        pairs = np.zeros(self.tiles + 1, dtype=np.int64)
        for first, row in enumerate(self.distances):
            pairs += np.bincount(row[first + 1 :], minlength=self.tiles + 1)
        return pairs

    @cached_property
    def mean_distance(self) -> float:
        """Mean distance over all pairs; ``mean_bound`` is its ceiling."""
        return float(self.histogram @ np.arange(self.tiles + 1) / self.histogram.sum())

    @cached_property
    def min_distance(self) -> int:
        """Distance m of the nearest pair: any n - m + 1 tiles in their places tell which
        permutation it is.
        """
        return int(np.flatnonzero(self.histogram)[0])

    @cached_property
    def pairs_at_min(self) -> int:
        """How many pairs are at ``min_distance``."""
        return int(self.histogram[self.min_distance])

    @cached_property
    def nearest(self) -> Bytes:
        """Distance of each permutation to the nearest other one, uint8 ``[K]``."""
        others = self.distances.copy()
        np.fill_diagonal(others, self.tiles)
        nearest: Bytes = others.min(axis=1)
        return nearest

    @cached_property
    def cell_slot_counts(self) -> Ints:
        """How many permutations show cell j (row) in slot i (column), int64 ``[n, n]``; flat in a
        balanced set.
        """
        return np.stack(
            [np.bincount(slot, minlength=self.tiles) for slot in self.permutations.T], axis=1
        )

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the K*n bytes, row after row."""
        return hashlib.sha256(self.permutations.tobytes()).hexdigest()

    def facts(self) -> dict[str, str | int | float | None]:
        """What identifies and describes the set, ready for JSON."""
        return {
            "mode": self.mode,
            "K": self.count,
            "grid": self.grid,
            "seed": self.seed,
            "mean": self.mean_distance,
            "min": self.min_distance,
            "pairs_at_min": self.pairs_at_min,
            "sha256": self.sha256,
        }


def build(
    mode: str, count: int, grid: int = 3, seed: int | None = None, *, ties: Ties = "random"
) -> PermutationSet:
    """Choose ``count`` permutations of ``grid * grid`` tiles.

    - ``max_min``: add the permutation whose nearest chosen one is farthest; ties by the summed
      distance to the chosen, then the first in lexicographic order.
    - ``max_mean``: the one with the largest summed distance (the paper's Algorithm 1);
      ``min_mean``: the smallest.
    - ``random``: uniformly sampled.
    - ``code``: closed forms with a proven minimum, affine and projective maps; see ``closed_form``.
    - ``all``: all 24 permutations of 2 x 2 tiles.

    Every set begins with the identity when ``seed`` is None or 0 (the canonical set): class 0 is
    the unshuffled image. Another seed relabels cells and slots, p -> a[p[b]] with two random
    permutations a and b, which keeps every distance. The seed also decides what is random in a
    mode: the sets of ``random``, the ties of the mean modes and the candidate pool of grids 4 and
    5. Fewer permutations with the same seed are the first ones of more (except in ``code``).

    Args:
        mode: One of ``MODES``.
        count: K, from 2 to 24 for grid 2 and to ``LARGEST_COUNT`` for larger grids; less for
            ``code``.
        grid: Tiles along each side, 2..5. Grids 2 and 3 choose among all permutations, 4 and 5
            among ``POOL_SIZE`` random.
        seed: 0 or larger; None is 0.
        ties: How ``max_mean`` and ``min_mean`` choose among equals. ``"first"`` fills max_mean with
            permutations one swap apart; it exists to compare with other code.

    Raises:
        UnknownNameError: No such mode.
        UsageError: A count, grid or seed that is not offered.
    """
    _check_request(mode, count, grid, seed)
    tiles = grid * grid
    bits = np.random.PCG64(seed or 0)
    cells, slots = _random_permutations(bits, 2, tiles)
    if mode == "code":
        rows = closed_form(count, tiles)
    else:
        candidates = lexicographic(tiles) if tiles <= 9 else _pool(bits, tiles)
        rows = candidates[:, _select(mode, candidates, count, bits, ties)].T
    return PermutationSet(cells[rows[:, slots]] if seed else rows, mode, grid, seed or 0)


def inverse(permutations: Bytes) -> Bytes:
    """The permutations that undo these: ``shown[inverse(p)]`` is the unshuffled image.

    Args:
        permutations: ``[..., n]``, each last axis a permutation of 0..n-1 with n at most 256.

    Returns:
        uint8, same shape.
    """
    return np.argsort(permutations, axis=-1).astype(np.uint8)


def mean_bound(count: int, tiles: int = 9) -> float:
    """The largest mean distance that ``count`` (2 or more) permutations of ``tiles`` tiles can
    have.

    Two of them agree in a slot when they show the same cell there. Agreements are fewest when, in
    every slot, each cell appears q or q + 1 times, where count = tiles * q + r; then r cells have q
    + 1.
    """
    q, r = divmod(count, tiles)
    agreeing = r * math.comb(q + 1, 2) + (tiles - r) * math.comb(q, 2)
    return tiles * (1 - agreeing / math.comb(count, 2))


def hamming(columns: Bytes, permutation: Bytes) -> Bytes:
    """Distance of each of M permutations to one.

    Args:
        columns: uint8 ``[n, M]``, a permutation per column: whole rows of bytes are compared at
            once.
        permutation: uint8 ``[n]``.

    Returns:
        uint8 ``[M]``, 0..n.
    """
    distance = np.zeros(columns.shape[1], dtype=np.uint8)
    differs = np.empty(columns.shape[1], dtype=np.bool_)
    for shown, cell in zip(columns, permutation, strict=True):
        np.not_equal(shown, cell, out=differs)
        distance += differs.view(np.uint8)
    return distance


def lexicographic(tiles: int) -> Bytes:
    """All permutations of 0..tiles-1 in lexicographic order, uint8 ``[tiles, tiles!]``, one per
    column.
    """
    columns = np.zeros((1, 1), dtype=np.uint8)
    for size in range(2, tiles + 1):
        first = np.repeat(np.arange(size, dtype=np.uint8), columns.shape[1])
        rest = np.tile(columns, size)
        # The rest holds 0..size-2; making room for the first number keeps its order.
        rest += rest >= first
        columns = np.vstack([first, rest])
    return columns


def load(path: Path) -> PermutationSet:
    """Read a set: ``.npy`` with values 0..n-1 or 1..n, or the ``.bin`` of the paper's released
    code.

    A ``.bin`` is little-endian int32: number of rows, number of columns, then the values from 1.

    Args:
        path: The file.

    Returns:
        The set, mode ``"file"``, rows in the order of the file.

    Raises:
        UsageError: The file cannot be read, or its rows are not different permutations of 4, 9, 16
            or 25 tiles.
    """
    parsers = {".npy": _parse_npy, ".bin": _parse_bin}
    if path.suffix not in parsers:
        raise UsageError(f"{path} is neither .npy nor .bin; give the file of a permutation set")
    try:
        content = read_bytes(path, _LARGEST_FILE)
    except DocumentError as error:
        raise UsageError(f"cannot read {path}: {error}; check --permutation-file") from error
    rows = _checked(parsers[path.suffix](content, path), path)
    return PermutationSet(rows, "file", math.isqrt(rows.shape[1]))


def save(permutation_set: PermutationSet, path: Path) -> None:
    """Write ``path`` (``.npy``, uint8 ``[K, n]``, values from 0) and its ``facts`` beside it as
    ``.json``.

    Raises:
        UsageError: ``path`` does not end in ``.npy``.
        CheckpointError: The path cannot be written to, or (``DiskFullError``) is full.
    """
    if path.suffix != ".npy":
        raise UsageError(
            f"{path} does not end in .npy; name the file {path.with_suffix('.npy').name}"
        )
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, permutation_set.permutations, allow_pickle=False)
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(permutation_set.facts(), indent=2) + "\n", encoding="utf-8")


def _check_request(mode: str, count: int, grid: int, seed: int | None) -> None:
    """Raise for what ``build`` does not offer, naming what it does."""
    if mode not in MODES:
        raise UnknownNameError("permutation mode", mode, MODES)
    if grid not in GRIDS:
        raise UsageError(f"grid {grid} is not offered; type --grid with {GRIDS[0]} to {GRIDS[-1]}")
    if seed is not None and seed < 0:
        raise UsageError(
            f"permutation seed {seed} is negative; type --permutation-seed with 0 or more"
        )
    if mode == "all" and (grid, count) != (2, 24):
        raise UsageError(
            f"mode all means the 24 permutations of grid 2, not {count} of grid {grid}; "
            "type --grid 2 --permutations 24, or --permutation-mode max_min"
        )
    largest = (
        LARGEST_CODE[grid] if mode == "code" else min(math.factorial(grid * grid), LARGEST_COUNT)
    )
    if not 2 <= count <= largest:
        more = ", or --permutation-mode max_min" if mode == "code" and count > largest else ""
        raise UsageError(
            f"mode {mode} has no {count} permutations of grid {grid}; type --permutations 2 to "
            f"{largest}{more}"
        )


def _select(mode: str, candidates: Bytes, count: int, bits: np.random.PCG64, ties: Ties) -> Ints:
    """Indexes ``[count]`` of the chosen among the candidates ``[n, M]``, whose first is the
    identity.
    """
    if mode == "all":
        return np.arange(count)
    if mode == "random":
        others = _random_permutations(bits, 1, candidates.shape[1] - 1)[0] + 1
        return np.append(0, others[: count - 1])
    return _greedy(
        mode, candidates, count, bits if ties == "random" and mode != "max_min" else None
    )


def _greedy(mode: str, candidates: Bytes, count: int, tie_bits: np.random.PCG64 | None) -> Ints:
    """Start with the first candidate and keep adding the best: indexes ``[count]`` in the order of
    choosing.

    No distance is computed twice: each step adds those to the newest one, n byte comparisons per
    candidate, to a running sum, and for ``max_min`` lowers a running minimum. ``tie_bits`` samples
    among equals; None takes the first.
    """
    score = np.zeros(candidates.shape[1], dtype=np.int32)
    nearest = np.full(candidates.shape[1], len(candidates), dtype=np.uint8)
    add = np.subtract if mode == "min_mean" else np.add
    chosen = np.zeros(count, dtype=np.int64)
    for step in range(1, count):
        newest = chosen[step - 1]
        distance = hamming(candidates, candidates[:, newest])
        add(score, distance, out=score)
        score[newest] = _CHOSEN
        if mode == "max_min":
            np.minimum(
                nearest, distance, out=nearest
            )  # 0 exactly for the chosen, so they never lead
            best = np.flatnonzero(nearest == nearest.max())
            best = best[score[best] == score[best].max()]
        else:
            best = np.flatnonzero(score == score.max())
        chosen[step] = best[tie_bits.random_raw() % len(best) if tie_bits else 0]
    return chosen


def _pool(bits: np.random.PCG64, tiles: int) -> Bytes:
    """The identity and ``POOL_SIZE`` - 1 random permutations less repeats, uint8 ``[n, M]``,
    lexicographic order.
    """
    sampled = _random_permutations(bits, POOL_SIZE - 1, tiles)
    rows = np.vstack([np.arange(tiles), sampled]).astype(np.uint8)
    return np.ascontiguousarray(np.unique(rows, axis=0).T)


def _random_permutations(bits: np.random.PCG64, count: int, size: int) -> Ints:
    """``count`` uniformly random permutations of 0..size-1, ``[count, size]``.

    Raw bits and a stable sort, because numpy promises the stream of a bit generator, not that of
    ``shuffle``.
    """
    return np.argsort(bits.random_raw((count, size)), axis=1, kind="stable")


def _parse_npy(content: bytes, path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file; never unpickles."""
    try:
        return parse_array(content)
    except DocumentError as error:
        raise UsageError(
            f"{path} is not a .npy file of whole numbers ({error}); write one with numpy.save"
        ) from error


def _parse_bin(data: bytes, path: Path) -> Ints:
    """The table of a ``.bin`` file, ``[rows, columns]``."""
    words = np.frombuffer(data[: len(data) // 4 * 4], dtype="<i4").astype(np.int64)
    rows, columns = (int(words[0]), int(words[1])) if len(words) >= 2 else (0, 0)
    if rows < 1 or columns < 1 or len(data) != 4 * (2 + rows * columns):
        raise UsageError(
            f"{path} has {len(data)} bytes, not two int32 sizes and as many values; use a .npy file"
        )
    return words[2:].reshape(rows, columns)


def _checked(table: NDArray[Any], path: Path) -> Bytes:
    """The table as uint8 ``[K, n]`` with values from 0, or an error about what is wrong with it."""
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise UsageError(
            f"{path} holds {table.dtype} {list(table.shape)}, not whole numbers [permutations, "
            "tiles]"
        )
    count, tiles = table.shape
    if math.isqrt(tiles) ** 2 != tiles or math.isqrt(tiles) not in GRIDS:
        raise UsageError(
            f"{path} permutes {tiles} tiles, not 4, 9, 16 or 25; each row is one permutation"
        )
    if not 2 <= count <= LARGEST_COUNT:
        raise UsageError(
            f"{path} has {count} permutations, not 2 to {LARGEST_COUNT}; use another file"
        )
    values = np.arange(tiles) + (1 if table.min() == 1 else 0)
    wrong = np.flatnonzero((np.sort(table, axis=1) != values).any(axis=1))
    if len(wrong):
        row = " ".join(map(str, table[wrong[0]]))
        raise UsageError(
            f"{path} row {wrong[0]} is {row}, not each of {values[0]}..{values[-1]} once; "
            "correct it"
        )
    rows: Bytes = table.astype(np.uint8) - np.uint8(values[0])
    _, first, number = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    earliest = first[number.ravel()]
    again = np.flatnonzero(earliest != np.arange(count))
    if len(again):
        raise UsageError(
            f"{path} row {again[0]} repeats row {earliest[again[0]]}; remove one of them"
        )
    return rows
