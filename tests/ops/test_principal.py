from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from ssltool.ops.principal import principal_components


def vectors(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Vectors of a different variance along each axis."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.5, dim, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    drawn = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * scale
    return drawn @ turn + 7


@settings(max_examples=20)
@given(rows=st.integers(4, 60), dim=st.integers(3, 20), seed=st.integers(0, 10**6))
def test_components_are_those_of_scikit_learn_up_to_their_sign(
    rows: int, dim: int, seed: int
) -> None:
    x = vectors(rows, dim, seed)
    values, shares = principal_components(x, 3)
    reference = PCA(3, svd_solver="full").fit(x.numpy())
    expected = reference.transform(x.numpy())
    signs = np.sign((expected * values.numpy()).sum(axis=0))
    assert np.allclose(values.numpy(), expected * signs, atol=1e-6)
    assert shares == pytest.approx(reference.explained_variance_ratio_, abs=1e-9)


def test_the_largest_weight_is_positive_and_rows_keep_their_values() -> None:
    x = vectors(50, 6, 0)
    values, _ = principal_components(x, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(principal_components(x[order], 3)[0], values[order], atol=1e-9)
    axes = torch.linalg.lstsq(values, x - x.mean(dim=0)).solution  # [3, 6]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())


def test_components_beyond_the_dimensions_are_zero() -> None:
    values, shares = principal_components(vectors(9, 2, 0), 3)
    assert values.shape == (9, 3)
    assert not values[:, 2].any()
    assert shares[2] == 0
    assert sum(shares) == pytest.approx(1)
    constant, none = principal_components(torch.ones(5, 4, dtype=torch.float64), 3)
    assert not constant.any()
    assert none == (0, 0, 0)
