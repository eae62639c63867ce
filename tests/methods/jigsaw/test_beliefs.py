"""Belief tables against their definition, and assignments against an exhaustive search."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.methods.jigsaw.beliefs import belief_tables, best_assignments
from ssltool.methods.jigsaw.figures import accuracy_by_distance


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 30), st.sampled_from([4, 9]))
def test_a_belief_is_the_probability_of_the_permutations_that_agree(
    seed: int, count: int, tiles: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(tiles, generator=generator) for _ in range(count)])
    logits = 3 * torch.randn(2, count, generator=generator, dtype=torch.float64)
    tables = belief_tables(logits, orders)
    for logit, table in zip(logits, tables, strict=True):
        odds = logit.exp()
        for i in range(tiles):
            for j in range(tiles):
                agreeing = odds[orders[:, i] == j].sum() / odds.sum()
                assert float(table[i, j]) == pytest.approx(float(agreeing), abs=1e-9)
    ones = torch.ones(2, tiles, dtype=torch.float64)
    torch.testing.assert_close(tables.sum(dim=1), ones)
    torch.testing.assert_close(tables.sum(dim=2), ones)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([2, 4, 5, 6]), st.booleans())
def test_assignments_are_the_best_of_all_permutations(seed: int, tiles: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = torch.rand(3, tiles, tiles, generator=generator)
    if ties:
        tables = (4 * tables).floor() / 4
    every = torch.tensor(list(permutations(range(tiles))))
    sums = tables[:, torch.arange(tiles), every].sum(dim=-1)  # [3, tiles!]
    found = best_assignments(tables)
    assert found.sort(dim=1).values.tolist() == [list(range(tiles))] * 3
    reached = tables.gather(2, found[..., None]).sum(dim=(1, 2))
    torch.testing.assert_close(reached, sums.amax(dim=1))


def test_a_large_table_is_as_good_as_scipy_says() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    tables = torch.rand(4, 25, 25, generator=torch.Generator().manual_seed(0))
    found = best_assignments(tables)
    for table, cells in zip(tables, found, strict=True):
        rows, columns = optimize.linear_sum_assignment(table.numpy(), maximize=True)
        expected = float(table[rows, columns].sum())
        assert float(table[torch.arange(25), cells].sum()) == pytest.approx(expected, rel=1e-5)


def test_an_assignment_outside_of_the_set() -> None:
    """Three permutations that each move three tiles agree on the identity, which is not among
    them.
    """
    orders = torch.tensor([[1, 2, 0, 3, 4, 5], [0, 1, 2, 4, 5, 3], [2, 1, 3, 0, 4, 5]])
    table = belief_tables(torch.zeros(1, 3), orders)
    assert best_assignments(table).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_accuracy_by_distance_by_hand() -> None:
    hits = torch.tensor([[True, False], [True, True], [False, False]])
    distances = torch.tensor([[2, 5], [2, 2], [5, 5]])
    bars = accuracy_by_distance(hits, distances, 0.01)
    assert bars.values == {"distance 2 (3 answers)": 100.0, "distance 5 (3 answers)": 0.0}
    assert set(bars.std.values()) == {0.0}
    hits[1, 0] = False  # at distance 2: one of one in the first image, one of two in the second
    bars = accuracy_by_distance(hits, distances, 0.01)
    assert bars.values["distance 2 (3 answers)"] == pytest.approx(200 / 3)
    expected = 100 * ((1 / 3) ** 2 + (1 - 4 / 3) ** 2) ** 0.5 / 3
    assert bars.std["distance 2 (3 answers)"] == pytest.approx(expected)
    assert [level.value for level in bars.levels] == [1.0]
