"""Convolutions of maps of one to four pixels, where small tiles and patches end, as one matrix
product on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ENOUGH = (
    256  # maps in a batch from which the matrix of 2x2 pixels pays; that of one pixel always does
)


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 that keeps the size; on maps of up to 2x2 pixels it skips the
    padding.

    There every output pixel sees every input pixel through one of the nine taps, so that the whole
    is a product with one matrix, at 4/9 of the multiplications (1/9 on a single pixel), most of
    which would be by zeros. Values agree with ``nn.Conv2d`` up to rounding. Larger maps, small
    batches, and other devices than a CPU are convolved as usual.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Float ``[B, C_in, H, W]`` -> ``[B, C_out, H, W]``."""
        batch, _, height, width = maps.shape
        pays = height * width == 1 or (max(height, width) <= 2 and batch >= _ENOUGH)
        if not pays or maps.device.type != "cpu" or self.padding != (1, 1):
            return super().forward(maps)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            weight = weight.to(torch.get_autocast_dtype("cpu"))
        places = [(y, x) for y in range(height) for x in range(width)]
        rows = [
            torch.cat([weight[:, :, 1 + i - y, 1 + j - x] for i, j in places], dim=1)
            for y, x in places
        ]
        flat = maps.permute(0, 2, 3, 1).flatten(1)
        found = F.linear(flat, torch.cat(rows))
        if self.bias is not None:
            found = found + self.bias.to(found.dtype).repeat(len(places))
        return found.view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)


def use_small_map_convolutions(network: nn.Module) -> None:
    """Exchange all convolutions of a network that can be, weights and names staying what they are."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and _fits(child):
                setattr(module, name, _exchanged(child))


def _fits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (
        shape == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def _exchanged(conv: nn.Conv2d) -> SmallMapConv2d:
    with torch.device("meta"):
        found = SmallMapConv2d(
            conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None
        )
    found.weight, found.bias = conv.weight, conv.bias
    return found
