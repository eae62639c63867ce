"""Networks of the context encoder: channel-wise layer, decoder, discriminator (Pathak et al. 2016).

Letters: B images, C channels, n side of the encoder's last map, t side of the predicted region.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssltool.encoders.layers import full_precision
from ssltool.methods.context_encoder.options import DecoderKind
from ssltool.ops.resize import resized

_NARROWEST = 32


class ChannelwiseLinear(nn.Module):
    """A fully connected layer inside each channel: every place of a map sees every other, no
    channel sees another.

    Section 3.1: C n^4 weights instead of the C^2 n^4 of a dense layer; no bias. One batched
    product: a grouped convolution gives the same numbers several times slower.

    Args:
        channels: C.
        side: n.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        positions = side * side
        # Deviation 1/n keeps the variance of the map.
        self.weight = nn.Parameter(torch.randn(channels, positions, positions) / side)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, C, n, n]`` to ``[B, C, n, n]``: y_c = x_c W_c with W_c ``[n^2 inputs, n^2
        outputs]``.
        """
        by_channel = maps.flatten(2).transpose(0, 1)  # [C, B, n^2]
        mixed: Tensor = (by_channel @ self.weight).transpose(0, 1)
        return mixed.reshape(maps.shape)


class Decoder(nn.Module):
    """Paints an image ``[B, channels, t, t]`` in -1..1 from a map ``[B, C, n, n]``.

    A 1x1 convolution (from a single place: a transposed one to 4x4), then steps that double the
    side, each with batch norm and ReLU, half as wide as the one before, and tanh. Steps are as many
    as needed to come near t; a bilinear resize does the rest.

    Args:
        channels: C.
        side: n.
        target: t.
        kind: Each step is ``tconv``, the transposed 4x4 convolution of the released network, or
            ``resize``, nearest neighbors and a 3x3 convolution, which leaves no checkerboard.
        widest: Most channels of the first step.
        mean: Color in 0..1 that an untrained decoder paints, one value per channel.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        target: int,
        kind: DecoderKind,
        widest: int,
        mean: tuple[float, ...],
    ) -> None:
        super().__init__()
        width = min(channels, widest)
        if side == 1:
            layers = [
                nn.ConvTranspose2d(channels, width, 4, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            side = 4
        else:
            layers = [nn.Conv2d(channels, width, 1)]
        steps = up_steps(side, target)
        for _ in range(steps - 1 if kind == "tconv" else steps):
            narrower = max(width // 2, _NARROWEST)
            layers += [*_up(kind, width, narrower), nn.BatchNorm2d(narrower), nn.ReLU()]
            width = narrower
        last: nn.Conv2d | nn.ConvTranspose2d
        if kind == "tconv" and steps:
            last = full_precision.ConvTranspose2d(
                width, len(mean), 4, stride=2, padding=1, bias=False
            )
        else:
            last = full_precision.Conv2d(width, len(mean), 3, padding=1, bias=False)
        self.layers = nn.Sequential(*layers, last)
        self.target = target
        _initialize(self)
        # An untrained decoder paints the mean color: the first error is that of the chance level.
        nn.init.normal_(last.weight, std=0.001)
        offset = torch.atanh((2 * torch.tensor(mean) - 1).clamp(-0.99, 0.99)).view(1, -1, 1, 1)
        self.offset: Tensor
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        painted = torch.tanh(self.layers(maps) + self.offset)
        return resized(painted, self.target)


def up_steps(side: int, target: int) -> int:
    """Doublings from n to t; the last one is left to resizing if it would enlarge by less than a
    quarter.
    """
    return max(0, math.ceil(math.log2(target / side) - math.log2(1.25)))


class Discriminator(nn.Module):
    """Tells real images ``[B, C, t, t]`` from painted ones, one logit per image (section 3.2).

    Strided 4x4 convolutions from 64 channels, doubling to 512, down to about 4x4 places, then one
    convolution over what is left. It sees the predicted part alone: given the context too, it wins
    by the seam.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        steps = max(2, int(math.log2(side)) - 2)
        layers: list[nn.Module] = []
        before, width = channels, 64
        for step in range(steps):
            layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False))
            if step:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
            before, width, side = width, min(2 * width, 512), side // 2
        last = full_precision.Conv2d(before, 1, side, bias=False)
        self.layers = nn.Sequential(*layers, last)
        _initialize(self)
        nn.init.normal_(last.weight, std=0.001)  # the first answer is "undecided"

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B]``, positive for real; float32 at any precision."""
        logits: Tensor = self.layers(images).flatten()
        return logits


def _up(kind: DecoderKind, width: int, narrower: int) -> list[nn.Module]:
    if kind == "tconv":
        return [nn.ConvTranspose2d(width, narrower, 4, stride=2, padding=1, bias=False)]
    return [
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(width, narrower, 3, padding=1, bias=False),
    ]


def _initialize(module: nn.Module) -> None:
    """The released networks' rule: kernels N(0, 0.02), scales of batch norm N(1, 0.02)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, std=0.02)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, mean=1.0, std=0.02)
