from __future__ import annotations

import pytest
import torch
from torch import nn

from ssltool.encoders.layers.local_response_norm import LocalResponseNorm


@pytest.mark.parametrize(("channels", "size"), [(3, 5), (96, 5), (16, 3)])
def test_same_values_and_gradients_as_torchs(channels, size):
    # Large values and alpha, so that the norm is far from 1.
    x = 30 * torch.randn(2, channels, 5, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output = LocalResponseNorm(channels, size, alpha=1e-2)(ours)
    expected = nn.LocalResponseNorm(size, 1e-2, 0.75)(theirs)
    assert torch.allclose(output, expected, rtol=1e-5, atol=1e-6)
    output.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    x = 300 * torch.randn(2, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = nn.LocalResponseNorm(5, 1e-4, 0.75)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = LocalResponseNorm(8)(x.to(dtype))
    assert output.dtype == dtype
    assert ((output.float() - expected).abs() <= 0.02 * expected.abs() + 0.1).all()


def test_it_adds_no_key():
    assert not LocalResponseNorm(8).state_dict()
