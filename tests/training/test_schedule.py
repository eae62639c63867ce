from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from ssltool.training.schedule import learning_rate


def test_warmup_rises_linearly_and_meets_the_base() -> None:
    rates = [learning_rate(s, base=0.8, total=100, warmup=4) for s in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_cosine_passes_half_at_half_and_ends_near_zero() -> None:
    assert learning_rate(55, base=1.0, total=100, warmup=10) == pytest.approx(0.5)
    assert 0 < learning_rate(99, base=1.0, total=100, warmup=10) < 1e-3


def test_step_drops_at_each_milestone_and_by_the_factor() -> None:
    rates = [
        learning_rate(s, base=1.0, total=400, kind="step", milestones=(0.25, 0.5, 0.75), factor=0.2)
        for s in (0, 99, 100, 199, 200, 300, 399)
    ]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.008, 0.008])


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 0.99), max_size=5), st.integers(20, 500))
def test_step_agrees_with_torch(milestones: list[float], total: int) -> None:
    at = sorted({round(m * total) for m in milestones})
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = MultiStepLR(optimizer, at, gamma=0.1)
    for step in range(total):
        rate = learning_rate(
            step, base=0.3, total=total, kind="step", milestones=[a / total for a in at]
        )
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@given(st.integers(1, 500), st.integers(0, 499), st.sampled_from(["cosine", "step", "constant"]))
def test_the_rate_is_positive_and_never_above_the_base(total: int, warmup: int, kind: str) -> None:
    warmup = min(warmup, total - 1)
    rates = [
        learning_rate(s, base=0.3, total=total, warmup=warmup, kind=kind) for s in range(total)
    ]
    assert all(0 < rate <= 0.3 + 1e-12 for rate in rates)
    after = rates[warmup:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(after))
