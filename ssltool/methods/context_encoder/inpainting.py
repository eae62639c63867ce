"""Baselines of inpainting without learning (mean color, interpolation), and reconstruction errors.

Images are float ``[B, C, S, S]`` in 0..1, masks bool ``[B, 1, S, S]``, true where the image was
removed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def interpolate(images: Tensor, mask: Tensor) -> Tensor:
    """Fill holes from the nearest visible pixels left, right, above and below, weighted by
    1/distance.

    Between two opposite neighbors this is linear interpolation; over a rectangular hole it is the
    mean of the horizontal and the vertical one where the borders are equally far. A pixel that sees
    no visible one in any of the four directions gets the mean of the visible pixels.
    """
    visible = ~mask
    total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for axis in (2, 3):
        for backwards in (False, True):
            value, distance = _nearest(images, visible, axis, backwards)
            weight = torch.where(distance > 0, 1 / distance.clamp_min(1), 0.0)
            total, weights = total + weight * value, weights + weight
    mean = (images * visible).sum(dim=(2, 3), keepdim=True) / visible.sum(
        dim=(2, 3), keepdim=True
    ).clamp_min(1)
    filled = torch.where(weights > 0, total / weights.clamp_min(1e-12), mean)
    return torch.where(mask, filled, images)


def _nearest(images: Tensor, visible: Tensor, axis: int, backwards: bool) -> tuple[Tensor, Tensor]:
    """The last visible pixel before each along an axis and its distance in pixels, 0 where there is
    none.
    """
    if backwards:
        images, visible = images.flip(axis), visible.flip(axis)
    steps = torch.arange(images.shape[axis], device=images.device).view(
        [-1, 1] if axis == 2 else [1, -1]
    )
    steps = steps.expand(visible.shape)
    last = torch.where(visible, steps, -1).cummax(dim=axis).values
    value = images.gather(axis, last.clamp_min(0).expand_as(images))
    distance = torch.where(last >= 0, steps - last, 0).to(images.dtype)
    return (value.flip(axis), distance.flip(axis)) if backwards else (value, distance)


def errors(filled: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean absolute error, mean squared error and PSNR in dB of each image, over the removed pixels
    alone.

    Returns:
        Three float ``[B]``; the first two are shares of the full range (the paper's percent), PSNR
        is -10 log10 of the second, at most 100 dB.
    """
    count = (mask.sum(dim=(1, 2, 3)) * truth.shape[1]).clamp_min(1)
    error = (filled - truth) * mask
    l1, l2 = error.abs().sum(dim=(1, 2, 3)) / count, error.square().sum(dim=(1, 2, 3)) / count
    return l1, l2, -10 * torch.log10(l2.clamp_min(1e-10))


def depth(mask: Tensor, most: int) -> Tensor:
    """How many pixels each removed pixel lies from the nearest visible one (chessboard distance),
    at most ``most``.

    Returns:
        int64 ``[B, 1, S, S]``, 0 where the image is visible; outside of the image counts as
        removed.
    """
    inside = mask.to(torch.float32)
    distance = mask.to(torch.int64)
    for _ in range(most - 1):
        inside = -F.max_pool2d(-inside, kernel_size=3, stride=1, padding=1)
        distance += inside.to(torch.int64)
    return distance
