from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.probing.splits import FOLDED, folds, label_subset, selection_splits, stratified_split


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.integers(0, 99))
def test_of_every_class_its_fraction_and_at_least_one(
    labels: list[int], fraction: float, seed: int
) -> None:
    y = torch.tensor(labels)
    chosen = label_subset(y, seed, fraction=fraction)
    assert len(set(chosen.tolist())) == len(chosen)
    for c in set(labels):
        count = labels.count(c)
        assert int((y[chosen] == c).sum()) == max(1, round(fraction * count))


@given(st.integers(0, 99))
def test_smaller_fractions_are_parts_of_larger_ones(seed: int) -> None:
    y = torch.arange(200) % 7
    chosen = [
        set(label_subset(y, seed, fraction=fraction).tolist()) for fraction in (0.02, 0.1, 0.5, 1)
    ]
    assert all(a < b for a, b in pairwise(chosen))
    assert len(chosen[-1]) == 200


def test_the_seed_decides() -> None:
    y = torch.arange(100) % 4
    assert torch.equal(label_subset(y, 1, fraction=0.2), label_subset(y, 1, fraction=0.2))
    assert not torch.equal(label_subset(y, 1, fraction=0.2), label_subset(y, 2, fraction=0.2))


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0, 1), st.integers(0, 2**31 - 1)
)
def test_a_split_keeps_each_class(labels: list[int], holdout: float, seed: int) -> None:
    y = torch.tensor(labels)
    kept, held = stratified_split(y, holdout, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(y)))
    assert kept.tolist() == sorted(kept.tolist())
    for c in set(labels):
        n = labels.count(c)
        assert int((y[held] == c).sum()) == min(max(round(holdout * n), 1), n - 1)


def test_a_split_follows_the_seed() -> None:
    y = torch.arange(200) % 4
    assert torch.equal(stratified_split(y, 0.1, 3)[1], stratified_split(y, 0.1, 3)[1])
    assert not torch.equal(stratified_split(y, 0.1, 3)[1], stratified_split(y, 0.1, 4)[1])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=60))
def test_a_group_is_on_one_side(images: list[tuple[int, int]]) -> None:
    labels, groups = (torch.tensor(column) for column in zip(*images, strict=True))
    kept, held = stratified_split(labels, 0.2, 0, groups)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(images)))
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())


def test_without_copies_groups_change_nothing() -> None:
    labels, groups = torch.arange(90) % 4, torch.randperm(90)
    for plain, grouped in zip(
        stratified_split(labels, 0.2, 5), stratified_split(labels, 0.2, 5, groups), strict=True
    ):
        assert torch.equal(plain, grouped)


def test_folds_share_out_every_class() -> None:
    labels = torch.tensor([0] * 7 + [1] * 5)
    parts = folds(labels, 0, 3)
    assert sorted(torch.cat([held for _, held in parts]).tolist()) == list(range(12))
    for kept, held in parts:
        assert not set(kept.tolist()) & set(held.tolist())
        assert 2 <= int((held < 7).sum()) <= 3


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 99))
def test_choices_are_made_by_every_image_but_the_only_one_of_a_class(
    labels: list[int], seed: int
) -> None:
    y = torch.tensor(labels, dtype=torch.int64)
    parts = selection_splits(y, seed)
    several = [i for i, c in enumerate(labels) if labels.count(c) > 1]
    assert sorted(i for _, held in parts for i in held.tolist()) == several
    for kept, held in parts:
        assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
        assert set(y[held].tolist()) <= set(y[kept].tolist())


def test_of_many_images_a_tenth_is_held_out() -> None:
    ((kept, held),) = selection_splits(torch.arange(FOLDED + 10) % 10, 0)
    assert (len(kept), len(held)) == (FOLDED + 10 - 200, 200)
