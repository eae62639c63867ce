"""`ChannelAffine`: a scale and an offset per channel, what is left of a norm without statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """Multiply each channel of a map by a weight and add a bias; takes the place of a batch norm.

    Weight and bias have a batch norm's keys, shapes and, unless ``zero``, initial values.

    Args:
        channels: C.
        zero: Whether the weights start at 0, for the end of a residual branch, and not at 1.
    """

    def __init__(self, channels: int, *, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels) if zero else torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Map float ``[B, C, H, W]`` to the same shape and dtype."""
        weight, bias = (each.to(maps.dtype)[:, None, None] for each in (self.weight, self.bias))
        return torch.addcmul(bias, maps, weight)
