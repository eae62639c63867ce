"""`SmallMapConv2d`: 3x3 convolutions of maps up to 2x2 pixels as one matrix product on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Batch size from which the matrix product is faster on 2x2 maps; on 1x1 maps it always is.
_MIN_BATCH = 256


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 and padding 1 that skips the padding on maps up to 2x2 pixels.

    Small tiles and patches end as such maps. Every output pixel then sees every input pixel through
    one of the nine taps, so the convolution is one matrix product with 4/9 of the multiplications
    (1/9 on a single pixel); the others are by zeros. Values agree with ``nn.Conv2d`` up to
    rounding. Larger maps, small batches and other devices are convolved as usual.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps, float ``[B, C_in, H, W]`` -> ``[B, C_out, H, W]``."""
        if torch.compiler.is_exporting():  # no branch on shapes, so that any are taken
            return super().forward(maps)
        batch, _, height, width = maps.shape
        pays = height * width == 1 or (max(height, width) <= 2 and batch >= _MIN_BATCH)
        if not pays or maps.device.type != "cpu" or self.padding != (1, 1):
            return super().forward(maps)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            weight = weight.to(torch.get_autocast_dtype("cpu"))
        positions = [(y, x) for y in range(height) for x in range(width)]
        rows = [
            torch.cat([weight[:, :, 1 + i - y, 1 + j - x] for i, j in positions], dim=1)
            for y, x in positions
        ]
        flat = maps.permute(0, 2, 3, 1).flatten(1)
        output = F.linear(flat, torch.cat(rows))
        if self.bias is not None:
            output = output + self.bias.to(output.dtype).repeat(len(positions))
        return output.view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)


def use_small_map_convolutions(network: nn.Module) -> None:
    """Replace all 3x3 convolutions that allow it by `SmallMapConv2d`; weights and keys stay."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and _fits(child):
                setattr(module, name, _replacement(child))


def _fits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (
        shape == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def _replacement(conv: nn.Conv2d) -> SmallMapConv2d:
    with torch.device("meta"):
        replacement = SmallMapConv2d(
            conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None
        )
    replacement.weight, replacement.bias = conv.weight, conv.bias
    return replacement
