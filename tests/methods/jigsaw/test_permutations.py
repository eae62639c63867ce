"""Permutation sets: published vectors, closed forms, and slow references."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.errors import UnknownNameError, UsageError
from ssltool.methods.jigsaw import permutations
from ssltool.methods.jigsaw.codes import closed_form
from ssltool.methods.jigsaw.permutations import (
    PermutationSet,
    build,
    hamming,
    inverse,
    lexicographic,
    load,
    save,
)

COUNTS = (1000, 100, 95, 85, 71, 35, 10, 7, 6)
# K: the ceiling of the mean distance, rounded to four digits.
BOUNDS = (8.0080, 8.0800, 8.0829, 8.0924, 8.1127, 8.2286, 8.8000, 9.0, 9.0)


def digits(text: str) -> list[list[int]]:
    return [[int(digit) for digit in row] for row in text.split()]


def shortfall(chosen: PermutationSet) -> np.ndarray:
    """Gap between the summed distance of the first 2, 3, ... rows and its ceiling, as integers."""
    added = [row[:k].sum(dtype=int) for k, row in enumerate(chosen.distances)]
    counts = np.arange(2, chosen.count + 1)
    ceiling = [permutations.mean_bound(int(k), chosen.tiles) * (k * (k - 1) / 2) for k in counts]
    return np.rint(ceiling - np.cumsum(added)[1:]).astype(int)


@pytest.fixture(scope="module")
def max_min() -> PermutationSet:
    return build("max_min", 1537)


@pytest.fixture(scope="module")
def max_mean() -> PermutationSet:
    return build("max_mean", 1000)


@pytest.fixture(scope="module")
def max_mean_first() -> PermutationSet:
    return build("max_mean", 1000, ties="first")


@pytest.fixture(scope="module")
def min_mean() -> PermutationSet:
    return build("min_mean", 1000, ties="first")


def first(count: int, of: PermutationSet) -> PermutationSet:
    return PermutationSet(of.permutations[:count], of.mode, of.grid, of.seed)


# --- All permutations, distances, inverses
# -----------------------------------------------------------------


def test_lexicographic_order_is_that_of_itertools():
    for tiles in range(1, 6):
        assert lexicographic(tiles).T.tolist() == [
            list(p) for p in itertools.permutations(range(tiles))
        ]


def test_lexicographic_indexes():
    table = lexicographic(9).T
    assert table.shape == (362_880, 9)
    assert table[[0, 1, 362_879, 41_067]].tolist() == digits(
        "012345678 012345687 876543210 103254786"
    )


@pytest.mark.parametrize("one", ["012345678", "201843765"])
def test_permutations_at_each_distance_from_one(one: str):
    distances = hamming(lexicographic(9), np.array(digits(one)[0], dtype=np.uint8))
    assert np.bincount(distances).tolist() == [
        1,
        0,
        36,
        168,
        1134,
        5544,
        22260,
        66744,
        133497,
        133496,
    ]
    assert distances.mean() == 8


def test_example_of_the_paper():
    p = np.array([[2, 0, 1, 8, 4, 3, 7, 6, 5]], dtype=np.uint8)
    tiles = np.array(list("abcdefghi"))
    shown = tiles[p[0]]
    assert "".join(shown) == "cabiedhgf"
    assert inverse(p).tolist() == [[1, 2, 0, 5, 4, 8, 7, 6, 3]]
    assert inverse(p).dtype == np.uint8
    assert "".join(shown[inverse(p)[0]]) == "abcdefghi"
    assert "".join(shown[p[0]]) == "bcafeighd"  # the usual mistake
    assert hamming(np.arange(9, dtype=np.uint8)[:, None], p[0]).tolist() == [8]


@given(st.permutations(range(16)))
def test_inverse_undoes(order: list[int]):
    p = np.array(order, dtype=np.uint8)
    assert p[inverse(p)].tolist() == list(range(16))
    assert inverse(p)[p].tolist() == list(range(16))
    assert inverse(inverse(p)).tolist() == order


# --- The statistics of a set
# -------------------------------------------------------------------------------


def test_statistics_of_three_permutations_by_hand():
    chosen = PermutationSet(
        np.array([[0, 1, 2, 3], [1, 0, 3, 2], [1, 0, 2, 3]], dtype=np.uint8), "file", 2
    )
    assert chosen.distances.tolist() == [[0, 4, 2], [4, 0, 2], [2, 2, 0]]
    assert chosen.distances.dtype == np.uint8
    assert chosen.histogram.tolist() == [0, 0, 2, 0, 1]
    assert chosen.mean_distance == pytest.approx(8 / 3)
    assert (chosen.min_distance, chosen.pairs_at_min) == (2, 2)
    assert chosen.nearest.tolist() == [2, 2, 2]
    assert chosen.cell_slot_counts.tolist() == [
        [1, 2, 0, 0],
        [2, 1, 0, 0],
        [0, 0, 2, 1],
        [0, 0, 1, 2],
    ]
    assert (chosen.count, chosen.tiles, chosen.seed) == (3, 4, None)


def test_nearest_is_the_distance_to_another_one():
    cyclic = (np.arange(4)[:, None] + np.arange(4)) % 4
    assert PermutationSet(cyclic.astype(np.uint8), "file", 2).nearest.tolist() == [4, 4, 4, 4]


def test_a_set_is_read_only_and_owns_its_rows():
    rows = np.array([[0, 1, 2, 3], [1, 0, 3, 2]], dtype=np.uint8)
    chosen = PermutationSet(rows, "file", 2)
    rows[0, 0] = 9
    assert chosen.permutations[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        chosen.permutations[0, 0] = 1


def test_facts_are_json():
    facts = build("code", 72, seed=3).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert list(facts) == ["mode", "K", "grid", "seed", "mean", "min", "pairs_at_min", "sha256"]
    assert (facts["K"], facts["grid"], facts["seed"], facts["min"], facts["pairs_at_min"]) == (
        72,
        3,
        3,
        8,
        2268,
    )


@pytest.mark.parametrize(("count", "bound"), list(zip(COUNTS, BOUNDS, strict=True)))
def test_mean_bound(count: int, bound: float):
    assert permutations.mean_bound(count) == pytest.approx(bound, abs=5e-5)


def test_mean_bound_of_larger_grids():
    assert permutations.mean_bound(1000, 16) == pytest.approx(15.0150, abs=5e-5)
    assert permutations.mean_bound(1000, 25) == pytest.approx(24.0240, abs=5e-5)
    assert permutations.mean_bound(24, 4) == pytest.approx(build("all", 24, 2).mean_distance)


@given(st.sets(st.permutations(range(4)).map(tuple), min_size=2))
def test_no_set_is_above_the_mean_bound(rows: set[tuple[int, ...]]):
    chosen = PermutationSet(np.array(sorted(rows), dtype=np.uint8), "file", 2)
    assert chosen.mean_distance <= permutations.mean_bound(len(rows), 4) + 1e-12


# --- The modes, against the table and the vectors of the specification
# ----------------------------------------


def test_max_min_starts_with():
    expected = """012345678 103254786 230167845 321078564 456780123 547806231 678412350 785631402
        864523017 023186457 134670258 208536174"""
    assert build("max_min", 12).permutations.tolist() == digits(expected)


def test_max_min_hashes(max_min: PermutationSet):
    assert build("max_min", 100).sha256.startswith("f106418522bdb91c")
    assert first(100, max_min).sha256.startswith("f106418522bdb91c")
    assert first(1000, max_min).sha256.startswith("5bd966ef3ca719ce")


@pytest.mark.parametrize(
    ("count", "mean", "minimum"),
    list(
        zip(
            COUNTS,
            (8.0080, 8.0796, 8.0822, 8.0868, 8.1103, 8.2269, 8.8, 9, 9),
            (5, 6, 6, 6, 7, 7, 8, 9, 9),
            strict=True,
        )
    ),
)
def test_max_min_table(max_min: PermutationSet, count: int, mean: float, minimum: int):
    chosen = first(count, max_min)
    assert chosen.mean_distance == pytest.approx(mean, abs=5e-5)
    assert chosen.min_distance == minimum


def test_max_min_longest_prefixes(max_min: PermutationSet):
    to_earlier = [int(row[:k].min()) for k, row in enumerate(max_min.distances) if k]
    minima = np.minimum.accumulate(to_earlier)  # of the first 2, 3, ... rows
    assert [int((minima >= m).sum()) + 1 for m in (9, 8, 7, 6, 5)] == [9, 17, 84, 341, 1536]


@pytest.mark.parametrize(("count", "bound"), list(zip(COUNTS, BOUNDS, strict=True)))
def test_max_mean_table(max_mean: PermutationSet, count: int, bound: float):
    mean = first(count, max_mean).mean_distance
    assert mean == pytest.approx(bound, abs=5e-5)
    assert mean == pytest.approx(permutations.mean_bound(count), abs=1e-12)


def test_max_mean_keeps_the_mean_at_its_bound(
    max_mean: PermutationSet, max_mean_first: PermutationSet
):
    """Short by at most 2 of 9*K*(K-1)/2 slots, and only now and then: greedy choice is not always
    perfect.
    """
    for chosen, misses in ((max_mean, 1), (max_mean_first, 57)):
        short = shortfall(chosen)
        assert set(short) <= {0, 1, 2}
        assert np.count_nonzero(short) == misses


def test_random_ties_avoid_near_pairs(max_mean: PermutationSet, max_mean_first: PermutationSet):
    assert max_mean.histogram[2] == 57  # a random set has about 50 among its 499,500 pairs
    assert max_mean_first.histogram[2] == 3266


def test_max_mean_first_ties_vectors(max_mean_first: PermutationSet):
    assert max_mean_first.permutations[9].tolist() == digits("012345687")[0]
    assert first(100, max_mean_first).sha256.startswith("fc6ec3d76f90c633")
    assert max_mean_first.sha256.startswith("f0beba7612796e7b")


def test_seeded_choices_are_pinned(max_mean: PermutationSet):
    assert first(100, max_mean).sha256.startswith("480b9e3c0093b133")
    assert build("random", 100).sha256.startswith("b784335e3d91e788")


def test_min_mean_table(min_mean: PermutationSet):
    assert first(100, min_mean).mean_distance == pytest.approx(3.9980, abs=5e-5)
    assert min_mean.mean_distance == pytest.approx(5.4544, abs=5e-5)
    assert min_mean.min_distance == 2


def test_random_set_is_near_the_mean_of_all_pairs():
    chosen = build("random", 1000, seed=5)
    assert len(np.unique(chosen.permutations, axis=0)) == 1000
    assert chosen.mean_distance == pytest.approx(8, abs=0.02)
    assert np.abs(chosen.cell_slot_counts - 1000 / 9).max() < 60  # six standard deviations


def test_all_is_every_permutation_of_four():
    assert build("all", 24, 2).permutations.tolist() == [
        list(p) for p in itertools.permutations(range(4))
    ]


# --- Greedy choice, against recomputing all distances at each step
# --------------------------------------------


def slow_greedy(mode: str, tiles: int, count: int) -> list[tuple[int, ...]]:
    everything = list(itertools.permutations(range(tiles)))
    chosen = [everything[0]]
    while len(chosen) < count:

        def merit(p: tuple[int, ...]) -> tuple[int, ...]:
            distances = [sum(x != y for x, y in zip(p, q, strict=True)) for q in chosen]
            total = sum(distances)
            return {
                "max_min": (min(distances), total),
                "max_mean": (total,),
                "min_mean": (-total,),
            }[mode]

        chosen.append(
            max((p for p in everything if p not in chosen), key=merit)
        )  # max keeps the first of equals
    return chosen


@pytest.mark.parametrize("mode", ["max_min", "max_mean", "min_mean"])
def test_greedy_equals_the_slow_reference_on_four_tiles(mode: str):
    expected = slow_greedy(mode, 4, 24)
    for count in range(2, 25):
        assert (
            list(map(tuple, build(mode, count, 2, ties="first").permutations.tolist()))
            == expected[:count]
        )


@pytest.mark.parametrize(
    "mode",
    ["max_min", *(pytest.param(m, marks=pytest.mark.slow) for m in ("max_mean", "min_mean"))],
)
def test_greedy_equals_recomputing_on_nine_tiles(mode: str):
    everything = np.array(list(itertools.permutations(range(9))), dtype=np.uint8)
    chosen = [0]
    for _ in range(14):
        distances = np.stack([(everything != everything[k]).sum(axis=1) for k in chosen])
        total, nearest = distances.sum(axis=0), distances.min(axis=0)
        merit = {"max_min": nearest * 1000 + total, "max_mean": total, "min_mean": -total}[mode]
        merit[chosen] = merit.min() - 1
        chosen.append(int(merit.argmax()))
    assert build(mode, 15, ties="first").permutations.tolist() == everything[chosen].tolist()


@pytest.mark.parametrize("mode", ["max_mean", "min_mean"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_random_ties_are_ties(mode: str, seed: int):
    """Each row has the best sum there is, whichever of the equals was drawn."""
    rows = build(mode, 24, 2, seed).permutations.astype(int)
    distances = (rows[:, None] != rows).sum(axis=2)
    best = max if mode == "max_mean" else min
    for k in range(1, 24):
        assert distances[k, :k].sum() == best(distances[k:, :k].sum(axis=1))


# --- Closed forms
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "pairs"),
    [
        (9, {9: 36}),
        (72, {8: 2268, 9: 288}),
        (504, {7: 54432, 8: 15876, 9: 56448}),
        (1512, {6: 127008, 7: 163296, 8: 428652, 9: 423360}),
    ],
)
def test_code_histograms(count: int, pairs: dict[int, int]):
    found = build("code", count).histogram
    assert {distance: int(n) for distance, n in enumerate(found) if n} == pairs


@pytest.mark.parametrize(
    ("count", "bound", "minimum"),
    list(zip(COUNTS, BOUNDS, (6, 7, 7, 7, 8, 8, 8, 9, 9), strict=True)),
)
def test_code_table(count: int, bound: float, minimum: int):
    chosen = build("code", count)
    assert chosen.mean_distance == pytest.approx(bound, abs=5e-5)
    assert chosen.min_distance == minimum


@pytest.mark.parametrize(("grid", "count"), [(2, 12), (3, 72), (3, 1512), (4, 240), (5, 600)])
def test_codes_are_groups_that_reach_the_bound_at_every_prefix(grid: int, count: int):
    chosen = build("code", count, grid)
    rows = {row.tobytes() for row in chosen.permutations}
    assert len(rows) == count
    for p in chosen.permutations[:: max(1, count // 40)]:
        assert {row.tobytes() for row in p[chosen.permutations]} == rows
    assert not shortfall(chosen).any()
    if grid != 3:
        assert chosen.min_distance == grid * grid - 1


@pytest.mark.parametrize("count", [72, 504, 1512])
def test_code_order_is_the_greedy_one(count: int):
    """Choosing by mean distance, first of equals, among the maps in their order takes them in that
    order.
    """
    maps = closed_form(count, 9)
    total = np.zeros(count, dtype=int)
    for k in range(count):
        left = total[k:]
        assert left[0] == left.max()
        total += (maps != maps[k]).sum(axis=1)


# --- Larger grids
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "random_minimum", "max_min_minimum"), [(4, 8, 12), (5, 17, 21)])
def test_pool_grids(grid: int, random_minimum: int, max_min_minimum: int):
    tiles = grid * grid
    sets = {mode: build(mode, 1000, grid) for mode in ("max_min", "max_mean", "min_mean", "random")}
    for chosen in sets.values():
        assert len(np.unique(chosen.permutations, axis=0)) == 1000
        assert (np.sort(chosen.permutations, axis=1) == np.arange(tiles)).all()
        assert chosen.permutations[0].tolist() == list(range(tiles))
    assert sets["random"].min_distance == random_minimum
    assert sets["max_min"].min_distance == max_min_minimum
    assert sets["max_mean"].mean_distance == pytest.approx(
        permutations.mean_bound(1000, tiles), abs=5e-4
    )
    means = [sets[mode].mean_distance for mode in ("min_mean", "random", "max_min", "max_mean")]
    assert means == sorted(means)


# --- Seeds
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["max_min", "max_mean", "min_mean", "random", "code"])
def test_canonical_sets_start_unshuffled(mode: str):
    assert build(mode, 12).permutations[0].tolist() == list(range(9))
    assert build(mode, 12, seed=0).sha256 == build(mode, 12).sha256
    assert build(mode, 12, seed=1).sha256 == build(mode, 12, seed=1).sha256
    assert build(mode, 12, seed=1).sha256 != build(mode, 12).sha256


@given(
    seed=st.integers(1, 2**63),
    mode=st.sampled_from(["max_min", "code"]),
    grid=st.sampled_from([2, 3]),
)
@settings(max_examples=15)
def test_relabelling_keeps_every_distance(seed: int, mode: str, grid: int):
    canonical, relabelled = build(mode, 12, grid), build(mode, 12, grid, seed)
    assert relabelled.distances.tolist() == canonical.distances.tolist()
    assert sorted(relabelled.cell_slot_counts.ravel()) == sorted(canonical.cell_slot_counts.ravel())
    assert (np.sort(relabelled.permutations, axis=1) == np.arange(grid * grid)).all()


@pytest.mark.parametrize("mode", ["max_min", "max_mean", "min_mean", "random"])
@pytest.mark.parametrize(("grid", "seed"), [(3, 0), (3, 7), (4, 7)])
def test_fewer_are_the_first_of_more(mode: str, grid: int, seed: int):
    few, more = build(mode, 10, grid, seed), build(mode, 30, grid, seed)
    assert few.permutations.tolist() == more.permutations[:10].tolist()


# --- Requests that cannot be met
# -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "count", "grid", "seed", "says"),
    [
        ("max_min", 30, 2, 0, "2 to 24"),
        ("max_min", 1, 3, 0, "2 to 10000"),
        ("random", 10_001, 3, 0, "2 to 10000"),
        ("max_mean", 10_001, 5, 0, "2 to 10000"),
        ("code", 1513, 3, 0, "2 to 1512, or --permutation-mode max_min"),
        ("code", 13, 2, 0, "2 to 12, or"),
        ("code", 241, 4, 0, "2 to 240, or"),
        ("code", 601, 5, 0, "2 to 600, or"),
        ("all", 24, 3, 0, "--grid 2 --permutations 24"),
        ("all", 23, 2, 0, "not 23 of grid 2"),
        ("max_min", 10, 6, 0, "2 to 5"),
        ("max_min", 10, 1, 0, "2 to 5"),
        ("max_min", 10, 3, -1, "-1 is negative"),
    ],
)
def test_impossible_requests_say_what_is_possible(
    mode: str, count: int, grid: int, seed: int, says: str
):
    with pytest.raises(UsageError) as caught:
        build(mode, count, grid, seed)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_mode_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean max_min"):
        build("maxmin", 10)


# --- Files
# --------------------------------------------------------------------------------------------------


@given(
    data=st.data(), base=st.sampled_from([0, 1]), kind=st.sampled_from(["u1", "<i4", ">i8", "<u8"])
)
@settings(max_examples=30)
def test_npy_round_trip_from_zero_or_one(tmp_path_factory, data, base: int, kind: str):
    tiles = data.draw(st.sampled_from([4, 9, 16, 25]))
    rows = data.draw(
        st.lists(st.permutations(range(tiles)), min_size=2, max_size=20, unique_by=tuple)
    )
    path = tmp_path_factory.mktemp("npy") / "orders.npy"
    np.save(path, np.array(rows, dtype=kind) + np.array(base, dtype=kind))
    found = load(path)
    assert found.permutations.tolist() == rows
    assert found.permutations.dtype == np.uint8
    assert (found.mode, found.grid**2, found.seed) == ("file", tiles, None)


def write_bin(path: Path, rows: np.ndarray) -> None:
    path.write_bytes(np.concatenate([rows.shape, rows.ravel()]).astype("<i4").tobytes())


def test_legacy_bin(tmp_path: Path):
    rows = build("max_min", 100, seed=1).permutations
    path = tmp_path / "permutations_hamming_max_100.bin"
    write_bin(path, rows.astype(int) + 1)
    assert path.stat().st_size == 3608
    assert load(path).permutations.tolist() == rows.tolist()


def test_save_writes_the_set_and_its_facts(tmp_path: Path):
    chosen = build("max_min", 20, seed=4)
    path = tmp_path / "new" / "permutations.npy"
    save(chosen, path)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "permutations.json",
        "permutations.npy",
    ]
    assert load(path).sha256 == chosen.sha256
    assert np.load(path).dtype == np.uint8
    assert json.loads(path.with_suffix(".json").read_text()) == chosen.facts()


def test_save_wants_npy(tmp_path: Path):
    with pytest.raises(UsageError, match=r"name the file orders\.npy"):
        save(build("code", 9), tmp_path / "orders.bin")
    assert not list(tmp_path.iterdir())


GOOD = [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (np.array([*GOOD, [0, 0, 2, 3]]), "row 3 is 0 0 2 3, not each of 0..3 once"),
        (np.array([*GOOD, [4, 1, 2, 3]]), "row 3 is 4 1 2 3"),
        (np.array(GOOD) + 2, "row 0 is 2 3 4 5, not each of 0..3 once"),
        (np.array(GOOD) - 1, "row 0 is -1 0 1 2"),
        (np.array([*GOOD, GOOD[1]]), "row 3 repeats row 1"),
        (np.array(GOOD)[:1], "1 permutations, not 2 to"),
        (np.zeros((0, 4), dtype=int), "0 permutations"),
        (np.array([[0, 1, 2], [1, 0, 2]]), "3 tiles, not 4, 9, 16 or 25"),
        (np.array([[0], [0]]), "1 tiles"),
        (np.array(GOOD, dtype=float), "float64 [3, 4], not whole numbers"),
        (np.arange(4), "int64 [4]"),
        (np.array(GOOD, dtype=object), "not a .npy file of whole numbers"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, table: np.ndarray, says: str):
    path = tmp_path / "orders.npy"
    np.save(path, table, allow_pickle=True)
    assert_refused(path, says)


def test_damaged_files_are_refused(tmp_path: Path):
    good = tmp_path / "good.npy"
    np.save(good, np.array(GOOD))
    (tmp_path / "short.npy").write_bytes(good.read_bytes()[:-5])
    (tmp_path / "header.npy").write_bytes(good.read_bytes().replace(b"}", b" "))
    (tmp_path / "empty.npy").write_bytes(b"")
    shape = b"{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000000000, 9), }"
    (tmp_path / "giant.npy").write_bytes(b"\x93NUMPY\x01\x00\x80\x00" + shape.ljust(128))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    names = ("short.npy", "header.npy", "empty.npy", "giant.npy", "objects.npy")
    for name in names:
        assert_refused(tmp_path / name, "not a .npy file of whole numbers")
    write_bin(tmp_path / "short.bin", np.array(GOOD) + 1)
    whole = (tmp_path / "short.bin").read_bytes()
    for bad in (whole[:-1], whole[:-4], whole[:4], b"", b"\xff" * len(whole)):
        (tmp_path / "short.bin").write_bytes(bad)
        assert_refused(tmp_path / "short.bin", f"has {len(bad)} bytes")
    assert_refused(tmp_path / "missing.npy", "no such file")
    assert_refused(tmp_path / "orders.txt", "neither .npy nor .bin")


def assert_refused(path: Path, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
