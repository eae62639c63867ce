"""Spaces of the neighbor search, against numpy and scikit-learn's definition of whitening."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssltool.errors import DataError
from ssltool.probing.knn import knn_accuracy
from ssltool.probing.knn_space import SHRINKAGE, space_of


def skewed(count: int, width: int, seed: int) -> Tensor:
    """Features like those after a rectifier: positive, correlated, of very different variance."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=g) * torch.logspace(0, -2, width)
    return (torch.randn(count, width, generator=g) @ mixing + 3).relu()


@given(st.integers(0, 1000), st.integers(2, 12))
def test_whitening_is_that_of_the_covariance(seed: int, width: int) -> None:
    x, other = skewed(200, width, seed), skewed(7, width, seed + 1)
    white = space_of(x, "whitened")(other).double().numpy()
    a = x.double().numpy()
    covariance = np.cov(a.T, bias=True)
    shrunk = covariance + SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    centered = other.double().numpy() - a.mean(0)
    # Inner products do not depend on the rotation: Mahalanobis with the shrunk covariance.
    expected = centered @ np.linalg.inv(shrunk) @ centered.T
    assert np.allclose(white @ white.T, expected, rtol=2e-3, atol=2e-3)


def test_the_other_spaces_are_what_they_say() -> None:
    x = skewed(50, 4, 0)
    assert space_of(x, "cosine")(x) is x
    assert torch.allclose(space_of(x, "centered")(x), x - x.mean(0), atol=1e-5)


def test_constant_features_do_no_harm() -> None:
    x = torch.full((10, 3), 2.0)
    assert bool(space_of(x, "whitened")(x).isfinite().all())
    with pytest.raises(DataError, match="NaN or infinite"):
        space_of(x * torch.nan, "whitened")


def test_whitening_finds_classes_that_a_large_common_direction_hides() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    small = torch.randn(4, 8, generator=g)[y] + 0.1 * torch.randn(400, 8, generator=g)
    x = torch.cat([200 * torch.rand(400, 2, generator=g), small], dim=1)
    accuracy = {}
    for space in ("cosine", "whitened"):
        z = space_of(x[:300], space)(x)
        accuracy[space] = knn_accuracy(z[:300], y[:300], z[300:], y[300:], 4, ks=(20,))[20]
    assert accuracy["cosine"] < 60
    assert accuracy["whitened"] > 95
