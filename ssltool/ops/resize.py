"""Resizing with a deterministic gradient."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def resized(maps: Tensor, side: int) -> Tensor:
    """Square maps at another size, bilinear; smoothed first where they shrink.

    On a GPU torch adds up the gradient of its own resizing in whatever order threads come; there it
    is done as two matrix products, whose order is fixed. Values agree up to rounding.

    Args:
        maps: float ``[B, C, n, n]``; fastest where they lie channels-last.
        side: t.

    Returns:
        ``[B, C, t, t]``.
    """
    before = maps.shape[-1]
    if before == side:
        return maps
    if maps.device.type == "cpu":  # at half the cost
        return F.interpolate(maps, (side, side), mode="bilinear", antialias=side < before)
    with torch.autocast(maps.device.type, enabled=False):
        return as_products(maps, side)


def as_products(maps: Tensor, side: int) -> Tensor:
    """`resized` by a matrix for each axis."""
    along = line_matrix(maps.shape[-1], side, maps.device, maps.dtype)
    batch, channels, height, width = maps.shape
    rows = along @ maps.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    return (
        (along @ rows.view(batch * side, width, channels))
        .view(batch, side, side, channels)
        .permute(0, 3, 1, 2)
    )


@cache
def line_matrix(
    before: int, after: int, device: torch.device, dtype: torch.dtype, mode: str = "bilinear"
) -> Tensor:
    """The matrix ``[after, before]`` that resizes a line of numbers; ``mode`` is that of
    `F.interpolate`.
    """
    with torch.inference_mode(False):
        lines = torch.eye(before, dtype=torch.float64)[None, None]
        resized = F.interpolate(lines, (after, before), mode=mode, antialias=after < before)
        return resized[0, 0].to(device, dtype)
