"""Layer norm of maps against torch's group norm with one group, and against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssltool.encoders.layers.layer_norm import MapLayerNorm


def built(channels: int) -> MapLayerNorm:
    norm = MapLayerNorm(channels, 1e-5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    return norm


@pytest.mark.parametrize("shape", [(5, 8, 4, 4), (3, 16, 1, 1), (2, 3, 5, 7)])
def test_equals_group_norm_with_its_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = built(shape[1]).double()
    usual = nn.GroupNorm(1, shape[1], 1e-5).double()
    usual.load_state_dict(norm.state_dict())
    maps = (3 * torch.randn(shape, dtype=torch.float64) + 1).to(memory_format=torch.channels_last)
    weights = torch.randn(shape, dtype=torch.float64)
    results = []
    for way in (norm.channels_last, usual):
        x = maps.clone().requires_grad_()
        module = norm if way == norm.channels_last else usual
        out = way(x)
        gradients = torch.autograd.grad((out * weights).sum(), [x, module.weight, module.bias])
        results.append((out, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_keeps_the_memory_format_and_the_dtype() -> None:
    maps = torch.randn(2, 4, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    out = built(4).channels_last(maps)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_every_map_is_normed_by_itself(form: torch.memory_format) -> None:
    torch.manual_seed(1)
    norm, maps = built(4), torch.randn(6, 4, 3, 3).to(memory_format=form)
    alone = torch.cat([norm(one[None]) for one in maps])
    torch.testing.assert_close(norm(maps), alone)
    mean, deviation = (
        maps.mean((1, 2, 3), keepdim=True),
        maps.var((1, 2, 3), keepdim=True, correction=0),
    )
    by_hand = (maps - mean) / (deviation + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[
        :, None, None
    ]
    torch.testing.assert_close(norm(maps), by_hand)
