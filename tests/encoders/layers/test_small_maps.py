"""Small maps multiplied by one matrix are what a convolution makes of them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssltool.encoders.layers.small_maps import SmallMapConv2d, use_small_map_convolutions
from ssltool.encoders.registry import build_encoder


@settings(max_examples=30)
@given(
    st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]),
    st.sampled_from([1, 255, 256, 300]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_values_and_gradients_of_a_convolution(
    side: tuple[int, int], batch: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    plain = nn.Conv2d(5, 7, 3, padding=1, bias=bias).double()
    holder = nn.Sequential(copy.deepcopy(plain))
    use_small_map_convolutions(holder)
    assert type(holder[0]) is SmallMapConv2d
    assert holder[0].weight is next(holder.parameters())
    maps = torch.randn(batch, 5, *side, dtype=torch.double)
    one, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    expected, output = plain(one), holder(other)
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected)
    pull = torch.randn_like(expected)
    expected.backward(pull)
    output.backward(pull)
    torch.testing.assert_close(other.grad, one.grad)
    for a, b in zip(holder.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_gives_bfloat16() -> None:
    conv = SmallMapConv2d(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = (
            conv(torch.ones(2, 4, 1, 1)),
            nn.Conv2d.forward(conv, torch.ones(2, 4, 1, 1)),
        )
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_others_stay(conv: nn.Conv2d) -> None:
    holder = nn.Sequential(conv)
    use_small_map_convolutions(holder)
    assert holder[0] is conv


def test_an_encoder_gives_the_same_features_either_way() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet10_w32").eval()
    images = torch.rand(300, 3, 16, 16)
    keys = set(encoder.state_dict())
    output = encoder(images)
    for module in encoder.modules():
        if isinstance(module, SmallMapConv2d):
            module.forward = lambda maps, conv=module: nn.Conv2d.forward(conv, maps)
    torch.testing.assert_close(output, encoder(images), rtol=1e-4, atol=1e-5)
    assert keys == set(encoder.state_dict())
