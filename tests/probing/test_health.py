from __future__ import annotations

import math

import pytest
import torch

from ssltool.probing.health import MAX_IMAGES, health


def test_values_by_hand():
    # Four unit vectors on two axes: singular values equal, so two directions; squared distances 4,
    # 4 and four times 2.
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    measured = health(x, -x)
    assert measured.effective_rank == pytest.approx(2)
    assert measured.std == pytest.approx(math.sqrt(0.5) * math.sqrt(2))
    assert measured.uniformity == pytest.approx(math.log((2 * math.exp(-8) + 4 * math.exp(-4)) / 6))
    assert measured.alignment == pytest.approx(4)
    assert not measured.warning


def test_scale_of_the_features_does_not_matter():
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    assert health(x)[:3] == pytest.approx(health(x * 1000)[:3])


def test_collapse_is_named():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert "nearly the same" in health(torch.ones(50, 8) + 1e-6 * x).warning
    assert "nearly the same" in health(torch.zeros(50, 8)).warning
    assert "one direction" in health(x[:, :1] * torch.ones(8) + 1e-3 * x).warning
    assert not health(x).warning
    assert health(x).alignment is None


def test_many_images_are_thinned():
    x = torch.randn(3 * MAX_IMAGES, 4, generator=torch.Generator().manual_seed(0))
    assert health(x) == health(x[::3])
