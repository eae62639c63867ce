from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssltool.auditing import statistics
from ssltool.probing.measures import binomial_error


def slow_mean(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


@given(st.integers(2, 30), st.integers(0, 2**32), st.floats(-100, 100))
def test_a_paired_difference_is_that_of_the_differences(count: int, seed: int, far: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    present, absent = torch.randn(2, count, generator=generator, dtype=torch.float64) + far
    found = statistics.mean(present - absent)
    expected = slow_mean([a - b for a, b in zip(present.tolist(), absent.tolist(), strict=True)])
    assert found == pytest.approx(expected, abs=1e-9)


def test_scores_that_differ_by_a_constant_have_no_standard_error() -> None:
    scores = torch.rand(50, dtype=torch.float64)
    assert statistics.mean(scores - scores) == (0.0, 0.0)
    found = statistics.mean(scores + 0.25 - scores)
    assert found == pytest.approx((0.25, 0.0), abs=1e-12)
    assert found.is_positive


def test_images_without_a_score_are_left_out() -> None:
    scores = torch.tensor([1.0, torch.nan, 3.0, torch.nan, 5.0], dtype=torch.float64)
    assert statistics.mean(scores) == pytest.approx(slow_mean([1.0, 3.0, 5.0]))
    assert statistics.mean(scores[:2]).error == math.inf


def bootstrap(part: Tensor, whole: Tensor) -> float:
    """Standard error of the ratio of the means over resampled images."""
    drawn = torch.randint(len(part), (4000, len(part)), generator=torch.Generator().manual_seed(0))
    return float((part[drawn].mean(dim=1) / whole[drawn].mean(dim=1)).std())


def test_the_error_of_a_share_is_that_of_the_bootstrap() -> None:
    generator = torch.Generator().manual_seed(1)
    whole = 1 + 0.5 * torch.randn(400, generator=generator, dtype=torch.float64)
    part = 0.3 * whole + 0.2 * torch.randn(400, generator=generator, dtype=torch.float64)
    found = statistics.share(part, whole)
    assert found is not None
    assert found.value == pytest.approx(float(part.mean() / whole.mean()))
    assert found.error == pytest.approx(bootstrap(part, whole), rel=0.1)


def test_shares_of_the_whole_and_of_nothing() -> None:
    whole = 1 + torch.rand(30, dtype=torch.float64)
    assert statistics.share(whole, whole) == pytest.approx((1.0, 0.0), abs=1e-12)
    assert statistics.share(whole, whole - whole.mean()) is None


@given(st.integers(1, 600), st.sampled_from([0.0, 1.0]), st.integers(0, 3))
def test_shares_that_agree_are_as_uncertain_as_the_accuracy_of_a_probe(
    count: int, value: float, unscored: int
) -> None:
    shares = torch.tensor([value] * count + [torch.nan] * unscored, dtype=torch.float64)
    expected = binomial_error(100 * value, count) / 100
    assert statistics.half_an_image(shares) == pytest.approx(expected)


def test_shares_that_differ_or_are_between_have_a_spread_of_their_own() -> None:
    for shares in ([0.25, 0.25], [0.0, 1.0], [1.0, 0.5], [torch.nan]):
        assert statistics.half_an_image(torch.tensor(shares, dtype=torch.float64)) == 0
