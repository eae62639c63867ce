"""`MapLayerNorm`: layer norm of whole feature maps, fast on channels-last memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MapLayerNorm(nn.GroupNorm):
    """Layer norm over all channels and positions of a map, with a scale and offset per channel.

    Ba, Kiros & Hinton 2016 for convolutions, as CPC v2 uses it: each map is normalized by its own
    statistics, so no image or patch affects another. Values (up to rounding) and keys are those of
    ``nn.GroupNorm(1, channels)``, which on a GPU under autocast converts channels-last bfloat16
    maps to contiguous float32 and back.

    Args:
        channels: C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(1, channels, eps)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalize float maps ``[B, C, H, W]``; statistics are in float32 at least."""
        # On a CPU group norm handles either layout, twice as fast as below.
        plain = maps.device.type in {"cpu", "meta"}  # meta has no autocast
        if plain or not maps.is_contiguous(memory_format=torch.channels_last):
            return super().forward(maps)
        with torch.autocast(maps.device.type, enabled=False):
            return self.channels_last(maps)

    def channels_last(self, maps: Tensor) -> Tensor:
        """Normalize channels-last maps: each is one row of torch's layer norm."""
        last = maps.permute(0, 2, 3, 1)
        rows = last.flatten(1)
        normed = (
            F.layer_norm(rows, rows.shape[1:], eps=self.eps).view(last.shape).permute(0, 3, 1, 2)
        )
        # Not a view: in-place modules often follow, and on a view they copy in the backward pass.
        weight, bias = (each.to(maps.dtype)[:, None, None] for each in (self.weight, self.bias))
        return torch.addcmul(bias, normed, weight)
