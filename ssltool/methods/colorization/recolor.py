"""Images in other colors: their own lightness at full resolution, with colors upsampled to it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.lab import lab_to_rgb, lightness

_AT_ONCE = 2**20  # pixels of an image in floating point


def with_colors(images: Tensor, ab: Tensor) -> Tensor:
    """Replace the colors of images and keep their lightness (Zhang et al. 2016, section 2).

    Colors that no screen has are moved to the nearest value of each channel, which changes the
    lightness there.

    Args:
        images: uint8 ``[B, 3, H, W]``.
        ab: float ``[B, 2, t, t]``, a map of the whole images; upsampled bilinearly.

    Returns:
        uint8 ``[B, 3, H, W]``.
    """
    height, width = images.shape[-2:]
    wide = F.interpolate(ab, (height, width), mode="bilinear")
    rows = max(1, _AT_ONCE // (len(images) * width))
    bands = zip(torch.split(images, rows, 2), torch.split(wide, rows, 2), strict=True)
    return torch.cat([_recolored(*band) for band in bands], dim=2)


def _recolored(images: Tensor, ab: Tensor) -> Tensor:
    lab = torch.cat([lightness(images), ab], dim=1)
    return (lab_to_rgb(lab) * 255).round().byte()
