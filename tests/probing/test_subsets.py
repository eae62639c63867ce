from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.probing.subsets import subset


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.integers(0, 99))
def test_of_every_class_its_share_and_at_least_one(
    labels: list[int], share: float, seed: int
) -> None:
    y = torch.tensor(labels)
    chosen = subset(y, seed, share=share)
    assert len(set(chosen.tolist())) == len(chosen)
    for c in set(labels):
        count = labels.count(c)
        assert int((y[chosen] == c).sum()) == max(1, round(share * count))


@given(st.integers(0, 99))
def test_smaller_shares_are_parts_of_larger_ones(seed: int) -> None:
    y = torch.arange(200) % 7
    chosen = [set(subset(y, seed, share=share).tolist()) for share in (0.02, 0.1, 0.5, 1)]
    assert all(a < b for a, b in pairwise(chosen))
    assert len(chosen[-1]) == 200


def test_the_seed_decides() -> None:
    y = torch.arange(100) % 4
    assert torch.equal(subset(y, 1, share=0.2), subset(y, 1, share=0.2))
    assert not torch.equal(subset(y, 1, share=0.2), subset(y, 2, share=0.2))
