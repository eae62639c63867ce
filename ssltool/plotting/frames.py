"""Frames, outlines and conversions of uint8 image tensors for figures."""

from __future__ import annotations

import torch
from torch import Tensor

# Distinct with any color vision (Okabe & Ito 2008): bluish green, vermilion, yellow, sky blue.
GREEN = torch.tensor([0, 158, 115], dtype=torch.uint8)
RED = torch.tensor([213, 94, 0], dtype=torch.uint8)
YELLOW = torch.tensor([240, 228, 66], dtype=torch.uint8)
BLUE = torch.tensor([86, 180, 233], dtype=torch.uint8)


def enlarged(images: Tensor, times: int) -> Tensor:
    """Repeat the pixels of ``[..., h, w]`` a whole number of times, so that small images stay
    sharp.
    """
    return images.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)


def border(patches: Tensor, colors: Tensor, width: int) -> Tensor:
    """Paint a frame on the outermost pixels of each patch.

    Args:
        patches: uint8 ``[B, P, 3, t, t]``.
        colors: uint8 ``[B, P, 3]``.
        width: Pixels.

    Returns:
        A copy, uint8 ``[B, P, 3, t, t]``.
    """
    size = patches.shape[-1]
    inside = torch.zeros(size, size, dtype=torch.bool, device=patches.device)
    inside[width : size - width, width : size - width] = True
    return torch.where(inside, patches, colors[..., None, None])


def outline(
    images: Tensor, top: Tensor, left: Tensor, size: int | Tensor, color: Tensor, width: int = 1
) -> Tensor:
    """Draw the outlines of boxes at given positions, just inside their edges.

    Args:
        images: uint8 ``[B, 3, H, W]``.
        top: int64 ``[B, P]``, row of each box's first pixel.
        left: int64 ``[B, P]``, its column.
        size: Side of all boxes in pixels; or their height and width, int64 ``[B, P, 2]``.
        color: uint8 ``[3]``.
        width: Of the lines, in pixels.

    Returns:
        A copy, uint8 ``[B, 3, H, W]``.
    """
    height, length = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None] - top[:, :, None, None]  # [B, P, H, 1]
    x = torch.arange(length, device=images.device)[None, :] - left[:, :, None, None]  # [B, P, 1, W]
    tall, wide = (
        (size, size) if isinstance(size, int) else size[..., None, None].unbind(dim=2)
    )  # [B, P, 1, 1]
    inside = (y >= 0) & (y < tall) & (x >= 0) & (x < wide)
    edge = inside & ((y < width) | (y >= tall - width) | (x < width) | (x >= wide - width))
    drawn = edge.any(dim=1)[:, None]  # [B, 1, H, W]
    return torch.where(drawn, color.to(images.device)[:, None, None], images)


def to_uint8(patches: Tensor) -> Tensor:
    """Map each float image ``[..., C, h, w]`` from its own range of values to uint8 0..255.

    A constant image becomes mid-gray.
    """
    low = patches.amin(dim=(-3, -2, -1), keepdim=True)
    high = patches.amax(dim=(-3, -2, -1), keepdim=True)
    stretched = (patches - low) / (high - low).clamp_min(1e-6) * 255
    return torch.where(high > low, stretched, 128.0).round().to(torch.uint8)
