"""Color operations on batches, applied to selected images."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.ops.select import change


def to_gray(images: Tensor, which: Tensor) -> Tensor:
    """Replace the channels of the selected images by their mean, rounded for integer images.

    Args:
        images: ``[B, 3, H, W]``, uint8 or float.
        which: bool ``[B]``, true = made gray.

    Returns:
        Like ``images``.
    """
    return change(which, images.clone(), _mean_channel)


def _mean_channel(images: Tensor) -> Tensor:
    """Mean ``[B, 1, H, W]`` of three channels, of their dtype."""
    r, g, b = images.unbind(dim=1)
    mean = (
        r.to(torch.float32).add_(g).add_(b).div_(3)[:, None]
    )  # faster on a CPU than a reduction over three planes
    return mean.to(images.dtype) if images.is_floating_point() else mean.round_().to(images.dtype)


def project_color(images: Tensor, which: Tensor) -> Tensor:
    """Remove the green-magenta axis from the selected images: x -> x (I - a'a / aa'), a = (-1, 2,
    -1).

    Along this axis lies lateral chromatic aberration (Doersch et al. 2015, section 3.1).

    Args:
        images: float ``[B, 3, H, W]``.
        which: bool ``[B]``, true = projected.

    Returns:
        float ``[B, 3, H, W]``; values may leave the range of the input slightly.
    """
    r, g, b = images.unbind(dim=1)
    along = (g * 2).sub_(r).sub_(b).div_(6)  # a a' = 6
    along.mul_(which.to(along.dtype)[:, None, None])
    return torch.stack([r + along, torch.sub(g, along, alpha=2), b + along], dim=1)


NORMALIZED_MEAN, NORMALIZED_STD = 0.5, 1 / 8
"""Mean of each channel, and deviation over all, that `normalize_contrast` gives an image."""


def normalize_contrast(images: Tensor, visible: Tensor | None = None) -> Tensor:
    """Give each image the same mean color and contrast, so that neither has to be learned.

    Each channel's mean becomes `NORMALIZED_MEAN`, the deviation over all channels
    `NORMALIZED_STD`; what is then more than four deviations away is clipped to 0..1.

    Args:
        images: float ``[B, C, H, W]`` in 0..1.
        visible: bool ``[B, 1, H, W]``, the pixels that decide mean and deviation; None for all.

    Returns:
        float ``[B, C, H, W]`` in 0..1; 0.5 everywhere where what decides is constant.
    """
    mean, deviation = mean_and_deviation(images, visible)
    # Less than a gray level is rounding.
    scale = torch.where(deviation < 1e-3 / 255, 0.0, NORMALIZED_STD / deviation.clamp_min(1 / 255))
    return (images - mean).mul_(scale).add_(NORMALIZED_MEAN).clamp_(0, 1)


def restore_contrast(normalized: Tensor, images: Tensor, visible: Tensor | None = None) -> Tensor:
    """Undo `normalize_contrast`: give what was painted the colors of the images.

    Args:
        normalized: float ``[B, C, H, W]`` in 0..1.
        images: float ``[B, C, H, W]`` in 0..1, as they were before.
        visible: As for `normalize_contrast`.

    Returns:
        float ``[B, C, H, W]`` in 0..1.
    """
    mean, deviation = mean_and_deviation(images, visible)
    scale = deviation.clamp_min(1 / 255) / NORMALIZED_STD
    return ((normalized - NORMALIZED_MEAN) * scale + mean).clamp_(0, 1)


def mean_and_deviation(images: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean of each channel ``[B, C, 1, 1]`` and deviation over all channels ``[B, 1, 1, 1]``.

    Args:
        images: float ``[B, C, H, W]``.
        visible: bool ``[B, 1, H, W]``, the pixels that count; None for all.
    """
    seen = images.new_ones(len(images), 1, 1, 1) if visible is None else visible.to(images.dtype)
    seen = seen.expand(-1, 1, *images.shape[2:])
    count = seen.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (images * seen).sum(dim=(2, 3), keepdim=True) / count
    variance = ((images - mean).square() * seen).sum(dim=(2, 3), keepdim=True) / count
    return mean, variance.mean(dim=1, keepdim=True).sqrt()


def standardize_colors(
    images: Tensor, mean: Tensor, std: Tensor, out: Tensor | None = None
) -> Tensor:
    """Give each channel mean 0 and deviation 1 over the data: ``(images - mean) / std``.

    Args:
        images: uint8 or float ``[B, C, H, W]``.
        mean: float ``[C]``, on the scale of the images.
        std: float ``[C]``.
        out: Where the result goes, float like ``images``.

    Returns:
        float ``[B, C, H, W]``, laid out in memory as ``images``, or ``out``.
    """
    if out is None:
        out = torch.empty_like(images, dtype=mean.dtype)
    if images.stride(1) != 1 or out.stride(1) != 1:
        return torch.sub(images, mean[:, None, None], out=out).div_(std[:, None, None])
    # Channels last: a row is r, g, b, r, ... and taken as a whole, else torch works pixel by pixel,
    # six times as long.
    scale, offset = (
        values.expand(images.shape[-1], -1).flatten() for values in (1 / std, -mean / std)
    )
    torch.addcmul(offset, _rows(images).to(out.dtype), scale, out=_rows(out))
    return out


def _rows(images: Tensor) -> Tensor:
    """Channels-last images ``[B, C, H, W]`` as they lie: ``[B, H, W * C]``."""
    return images.permute(0, 2, 3, 1).flatten(2)
