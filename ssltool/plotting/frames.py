"""Conversions of image tensors for figures."""

from __future__ import annotations

import torch
from torch import Tensor


def enlarged(images: Tensor, times: int) -> Tensor:
    """Repeat the pixels of ``[..., h, w]`` a whole number of times, so that small images stay
    sharp.
    """
    return images.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)


def to_uint8(patches: Tensor) -> Tensor:
    """Map each float image ``[..., C, h, w]`` from its own range of values to uint8 0..255.

    A constant image becomes mid-gray.
    """
    low = patches.amin(dim=(-3, -2, -1), keepdim=True)
    high = patches.amax(dim=(-3, -2, -1), keepdim=True)
    stretched = (patches - low) / (high - low).clamp_min(1e-6) * 255
    return torch.where(high > low, stretched, 128.0).round().to(torch.uint8)


def error_colors(count: int = 256) -> Tensor:
    """Colors of errors from none, white, over vermilion to dark: uint8 ``[count, 3]``; each is
    darker than the one before.
    """
    stops = torch.tensor([[255.0, 255, 255], [253, 187, 132], [213, 94, 0], [60, 12, 0]])
    place = torch.linspace(0, len(stops) - 1, count)
    low = place.floor().long().clamp_max(len(stops) - 2)
    share = (place - low)[:, None]
    return ((1 - share) * stops[low] + share * stops[low + 1]).round().to(torch.uint8)
