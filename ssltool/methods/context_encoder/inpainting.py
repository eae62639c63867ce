"""Baselines of inpainting without learning (interpolation, nearest neighbor), and reconstruction
errors.

Images are float ``[B, C, S, S]`` in 0..1, masks bool ``[B, 1, S, S]``, true where the image was
removed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.color import NORMALIZED_STD, normalize_contrast

_GALLERY_AT_ONCE = 2**24  # values of gallery images, as float


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


def nearest_neighbor(
    images: Tensor, mask: Tensor, gallery: Tensor, excluded: Tensor, *, standardized: bool = False
) -> Tensor:
    """Fill holes from the image whose visible pixels are closest in L2 (Pathak et al. 2016,
    section 5.1, with pixels in place of HOG).

    Args:
        images: float ``[B, C, S, S]``; what is removed is not looked at.
        mask: bool ``[B, 1, S, S]``.
        gallery: uint8 ``[M, 3, S, S]``, whole images; of one channel the mean is taken.
        excluded: bool ``[B, M]``, images of the gallery that are not to be used for an image; one
            for which all are stays as it is.
        standardized: Whether ``images`` went through `normalize_contrast`, by their visible
            pixels; so does then the gallery, by the same pixels.

    Returns:
        float ``[B, C, S, S]``.
    """
    channels = images.shape[1]
    visible = (~mask).to(images.dtype)
    distance = torch.cat(
        [
            _distances(images, visible, _as_float(part, channels), standardized)
            for part in torch.split(gallery, max(1, _GALLERY_AT_ONCE // gallery[0].numel()))
        ],
        dim=1,
    ).masked_fill_(excluded, torch.inf)
    smallest, nearest = distance.min(dim=1)
    filled = _as_float(gallery[nearest], channels)
    if standardized:
        filled = normalize_contrast(filled, visible=~mask)
    return torch.where(mask & smallest.isfinite()[:, None, None, None], filled, images)


def _distances(images: Tensor, visible: Tensor, gallery: Tensor, standardized: bool) -> Tensor:
    """Squared distances ``[B, M]`` over the visible pixels, up to a constant of each image, from
    products alone: no difference of two images is ever held.
    """
    seen, flat = visible.flatten(1), gallery.flatten(1)
    product = (images * visible).flatten(1) @ flat.T
    squares = seen @ gallery.square().sum(dim=1).flatten(1).T
    if not standardized:
        return squares - 2 * product
    # Every gallery image gets mean 1/2 and one deviation over the visible pixels. Its squares are
    # then the same for all, and it differs by its correlation with the image.
    count = seen.sum(dim=1, keepdim=True).clamp_min(1)
    means = torch.stack([seen @ part.flatten(1).T / count for part in gallery.unbind(dim=1)], dim=2)
    sums = (images * visible).sum(dim=(2, 3))  # [B, C]
    covariance = product - torch.einsum("bmc,bc->bm", means, sums)
    variance = (squares / count - means.square().sum(dim=2)) / gallery.shape[1]
    return -2 * covariance * (NORMALIZED_STD / variance.clamp_min(1 / 255**2).sqrt())


def _as_float(images: Tensor, channels: int) -> Tensor:
    """uint8 ``[M, 3, S, S]`` as float ``[M, channels, S, S]`` in 0..1."""
    whole = images.to(torch.float32).div_(255)
    return whole.mean(dim=1, keepdim=True) if channels == 1 else whole


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
