"""Layer norm of whole maps, on maps that lie channels-last in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MapLayerNorm(nn.GroupNorm):
    """Layer norm over all channels and places of a map, then a scale and an offset of each channel.

    Ba, Kiros & Hinton 2016 for convolutions, as CPC v2 uses it: each map by its own statistics, so
    that no image or patch sees another. The same numbers, up to rounding, and the same keys as
    ``nn.GroupNorm(1, channels)``, which on a GPU under autocast would turn channels-last bfloat16
    maps into float32 ones in the other layout and back.

    Args:
        channels: C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(1, channels, eps)

    def forward(self, maps: Tensor) -> Tensor:
        """Float ``[B, C, H, W]`` to the same; statistics are in float32 at least."""
        # A CPU's group norm takes them as they lie, twice as fast as below.
        if maps.device.type == "cpu" or not maps.is_contiguous(memory_format=torch.channels_last):
            return super().forward(maps)
        with torch.autocast(maps.device.type, enabled=False):
            return self.as_they_lie(maps)

    def as_they_lie(self, maps: Tensor) -> Tensor:
        """The same of maps that lie channels-last, each of which is one row of numbers to torch's
        layer norm.
        """
        last = maps.permute(0, 2, 3, 1)
        rows = last.flatten(1)
        normed = (
            F.layer_norm(rows, rows.shape[1:], eps=self.eps).view(last.shape).permute(0, 3, 1, 2)
        )
        # The answer is no view: what follows often works in place, which of a view costs copies in
        # the backward pass.
        weight, bias = (each.to(maps.dtype)[:, None, None] for each in (self.weight, self.bias))
        return torch.addcmul(bias, normed, weight)
