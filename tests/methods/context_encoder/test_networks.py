"""The context encoder's layers: counts of the spec, and agreement with slower references."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssltool.encoders.registry import build_encoder
from ssltool.methods.context_encoder.networks import (
    ChannelwiseLinear,
    Decoder,
    Discriminator,
    up_steps,
)

HALF = (0.5, 0.5, 0.5)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("channels", "side", "count"),
    [(256, 6, 331_776), (512, 7, 1_229_312), (2048, 7, 4_917_248), (1280, 7, 3_073_280), (960, 7,
    2_304_960),
     (768, 7, 1_843_968), (768, 14, 29_503_488), (512, 4, 131_072), (2048, 4, 524_288)],
)  # fmt: skip
def test_the_channelwise_layer_has_the_papers_number_of_weights(
    channels: int, side: int, count: int
) -> None:
    with torch.device("meta"):
        assert size(ChannelwiseLinear(channels, side)) == count


def test_channelwise_layer_by_hand() -> None:
    layer = ChannelwiseLinear(2, 2)
    with torch.no_grad():
        layer.weight.copy_((torch.arange(1, 33) / 10).view(2, 4, 4))
    maps = torch.tensor([[1.0, 2, 3, 4], [-1, 0, 1, 2]]).view(1, 2, 2, 2)
    assert torch.allclose(
        layer(maps).flatten(), torch.tensor([9.0, 10, 11, 12, 6.6, 6.8, 7.0, 7.2])
    )


def test_channelwise_layer_agrees_with_a_grouped_convolution() -> None:
    """The author's own recipe: kernel n, one group per channel, n^2 outputs each."""
    layer = ChannelwiseLinear(5, 3)
    maps = torch.randn(4, 5, 3, 3)
    kernel = layer.weight.transpose(1, 2).reshape(5 * 9, 1, 3, 3)
    expected = F.conv2d(maps, kernel, groups=5).view(4, 5, 3, 3)
    assert torch.allclose(layer(maps), expected, atol=1e-5)


def test_no_channel_sees_another_and_every_place_sees_all() -> None:
    """A 1x1 convolution, as in the popular collections, would move nothing across places."""
    layer = ChannelwiseLinear(2, 3)
    maps = torch.randn(1, 2, 3, 3)
    changed = maps.clone()
    changed[0, 0, 1, 2] += 1
    moved = (layer(changed) - layer(maps))[0].abs()
    assert (moved[0] > 0).all()
    assert (moved[1] == 0).all()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(9).expand(2, 9, 9))
    assert torch.allclose(layer(maps), maps)


def test_the_channelwise_layer_keeps_the_variance() -> None:
    torch.manual_seed(0)
    assert float(
        ChannelwiseLinear(64, 6)(torch.randn(32, 64, 6, 6)).detach().var()
    ) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("side", "target"),
    [
        (7, 112),
        (7, 224),
        (6, 224),
        (4, 14),
        (4, 16),
        (4, 32),
        (8, 64),
        (12, 96),
        (3, 48),
        (14, 224),
    ],
)
@pytest.mark.parametrize("kind", ["resize", "tconv"])
def test_the_decoder_reaches_every_side(side: int, target: int, kind: str) -> None:
    painted = Decoder(8, side, target, kind, 32, HALF)(torch.randn(2, 8, side, side))
    assert painted.shape == (2, 3, target, target)
    assert painted.detach().abs().max().item() <= 1


def test_steps_of_the_decoder() -> None:
    known = {(7, 112): 4, (7, 224): 5, (3, 48): 4, (4, 14): 2, (4, 64): 4, (6, 227): 5, (8, 8): 0}
    assert {key: up_steps(*key) for key in known} == known


def test_an_untrained_decoder_paints_the_mean_color() -> None:
    mean = (0.2, 0.5, 0.7)
    painted = Decoder(16, 4, 16, "resize", 32, mean)(torch.randn(4, 16, 4, 4))
    assert torch.allclose((painted.mean(dim=(0, 2, 3)) + 1) / 2, torch.tensor(mean), atol=0.01)


def test_the_released_networks() -> None:
    """(2, 3, 128, 128) -> (2, 3, 64, 64) with 71,124,544 parameters; a discriminator of 2,765,568
    with one logit.
    """
    encoder = build_encoder("inpaintnet")
    decoder = Decoder(4000, 1, 64, "tconv", 512, HALF)
    assert size(encoder) + size(decoder) == 71_124_544
    assert [stage.width for stage in encoder.stages] == [64, 64, 128, 256, 512, 4000]
    maps = encoder.map(torch.randn(2, 3, 128, 128))
    assert maps.shape == (2, 4000, 1, 1)
    assert decoder(maps).shape == (2, 3, 64, 64)
    discriminator = Discriminator(3, 64)
    assert size(discriminator) == 2_765_568
    assert discriminator(torch.randn(2, 3, 64, 64)).shape == (2,)


@pytest.mark.parametrize("side", [14, 16, 28, 32, 48, 112, 128])
def test_the_discriminator_adapts_to_the_window(side: int) -> None:
    assert Discriminator(1, side)(torch.randn(3, 1, side, side)).shape == (3,)
