"""Random resized crops and mirroring of whole batches, sampled per image.

Shapes: B images, C channels, S their side, T side of the result, n tries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.per_image_rng import PerImageRNG

_TRIES = 10


def random_boxes(
    rng: PerImageRNG,
    side: int,
    area: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    aspects: Tensor | None = None,
) -> Tensor:
    """Sample the boxes of random resized crops (Szegedy et al. 2015, section 6, as torchvision
    samples them).

    Ten times an area is sampled uniformly and an aspect ratio log-uniformly; the first box that
    fits is placed uniformly. If none fits, the largest central box of a permitted ratio is taken.

    Args:
        rng: The images' random numbers.
        side: S in pixels.
        area: Least and greatest share of the image's area, 0..1.
        ratio: Least and greatest width / height in the image, before it was stretched.
        aspects: float ``[B]``, width / height of the images that were stretched to squares; 1 if
            not given.

    Returns:
        int64 ``[B, 4]``: top, left, height, width in pixels of the square.
    """
    u, v = rng.uniform(_TRIES), rng.uniform(_TRIES)
    areas = (area[0] + u * (area[1] - area[0])) * side**2
    ratios = torch.exp(math.log(ratio[0]) + v * math.log(ratio[1] / ratio[0]))
    tallest = widest = torch.full((rng.count,), side, device=rng.device)
    if aspects is not None:
        aspects = aspects.to(rng.device)
        ratios = ratios / aspects[:, None]  # of the box in the square
        tallest = (side * aspects / ratio[0]).round().clamp(1, side).long()
        widest = (side * ratio[1] / aspects).round().clamp(1, side).long()
    width, height = (areas * ratios).sqrt().round().long(), (areas / ratios).sqrt().round().long()
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # the first of equal maxima
    fitting = fits.any(dim=1)
    height = torch.where(fitting, height.gather(1, first)[:, 0], tallest)
    width = torch.where(fitting, width.gather(1, first)[:, 0], widest)
    position = torch.where(fitting[:, None], rng.uniform(2), 0.5)
    return _placed(position, height, width, side)


def plain_boxes(rng: PerImageRNG, side: int, share: float, aspects: Tensor | None = None) -> Tensor:
    """Sample square boxes of one size, placed uniformly in each image.

    Args:
        rng: The images' random numbers.
        side: S in pixels.
        share: Side of the box over the shorter side of the image, 0..1.
        aspects: As for `random_boxes`.

    Returns:
        int64 ``[B, 4]``: top, left, height, width in pixels of the square.
    """
    if aspects is None:
        aspects = torch.ones(rng.count)
    aspects = aspects.to(rng.device)
    height = (share * side * aspects.clamp_max(1)).round().clamp_min(1).long()
    width = (share * side / aspects.clamp_min(1)).round().clamp_min(1).long()
    return _placed(rng.uniform(2), height, width, side)


def crop_boxes(
    rng: PerImageRNG,
    side: int,
    crop_min: float,
    crop_side: float | None,
    aspects: Tensor | None,
) -> Tensor:
    """`plain_boxes` of a share ``crop_side`` of the shorter side, if there is one, else
    `random_boxes` of at least ``crop_min`` of the area.
    """
    if crop_side is not None:
        return plain_boxes(rng, side, crop_side, aspects)
    return random_boxes(rng, side, (crop_min, 1.0), aspects=aspects)


def _placed(position: Tensor, height: Tensor, width: Tensor, side: int) -> Tensor:
    """Boxes at positions ``[B, 2]`` in 0..1 of the room that they have."""
    top = (position[:, 0] * (side - height + 1)).long()
    left = (position[:, 1] * (side - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def resized_crop(
    images: Tensor, boxes: Tensor, size: int, mirrored: Tensor | None = None
) -> Tensor:
    """Cut a box out of each image and resize it, bilinear; a box that shrinks is smoothed first
    (antialiased).

    Bytes are rounded to bytes, on a CPU after each axis as Pillow does it, so there a value may be
    off by one.

    Args:
        images: uint8 or float ``[B, C, S, S]``.
        boxes: ``[B, 4]``: top, left, height, width in pixels, inside the image.
        size: T in pixels; less than S where crops are to be as sharp as whole images.
        mirrored: bool ``[B]``, true = left and right exchanged.

    Returns:
        ``[B, C, T, T]`` of the dtype of ``images``.
    """
    resize = _resized_one_by_one if images.device.type == "cpu" else _resized_together
    return resize(images, boxes, size, mirrored)


def _resized_together(images: Tensor, boxes: Tensor, size: int, mirrored: Tensor | None) -> Tensor:
    """`resized_crop` of the whole batch as two matrix products, one for each axis."""
    batch, channels, side = images.shape[:3]
    top, left, height, width = boxes.to(torch.float32).unbind(dim=1)
    down, across = _box_matrices(top, height, side, size), _box_matrices(left, width, side, size)
    if mirrored is not None:
        across = torch.where(mirrored[:, None, None], across.flip(1), across)
    with torch.autocast(images.device.type, enabled=False):
        lines = images.to(torch.float32).transpose(1, 2).reshape(batch, side * channels, side)
        rows = (lines @ across.mT).view(batch, side, channels * size)
        resized = (down @ rows).view(batch, size, channels, size).transpose(1, 2)
    if images.is_floating_point():
        return resized.to(images.dtype)
    last = images.stride(1) == 1
    form = torch.channels_last if last else torch.contiguous_format
    return resized.round().to(images.dtype, memory_format=form)


def _box_matrices(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Matrices float32 ``[B, T, S]`` that crop ``start``, ``length`` (``[B]``) out of a line and
    resize it.

    Row t weighs the crop's pixels by a triangle around the position of t in it, as wide as a pixel
    of the larger grid; at the ends, where part of the triangle lies outside of the crop, the
    weights inside are scaled up.
    """
    scale = (length / size).clamp_min(1)[:, None, None]  # of the triangle, in pixels of the image
    positions = (torch.arange(size, device=start.device) + 0.5) / size
    middle = (start[:, None] + positions * length[:, None])[:, :, None]
    pixels = torch.arange(side, device=start.device)[None, None] + 0.5
    inside = (pixels > start[:, None, None]) & (pixels < (start + length)[:, None, None])
    weights = (1 - (pixels - middle).abs() / scale).clamp_min(0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _resized_one_by_one(
    images: Tensor, boxes: Tensor, size: int, mirrored: Tensor | None
) -> Tensor:
    """`resized_crop` on a CPU: resizing one axis after the other is faster there, of bytes five
    times.
    """
    last = images.stride(1) == 1  # channels last, of which torch resizes bytes three times as fast
    form = torch.channels_last if last else torch.contiguous_format
    resized = torch.empty(
        (len(images), images.shape[1], size, size), dtype=images.dtype, memory_format=form
    )
    flips = [False] * len(images) if mirrored is None else mirrored.tolist()
    for number, ((top, left, height, width), flip) in enumerate(
        zip(boxes.tolist(), flips, strict=True)
    ):
        box = images[number : number + 1, :, top : top + height, left : left + width]
        box = box.flip(-1) if flip else box  # before it is resized: it is copied then anyway
        shrinks = max(height, width) > size
        resized[number] = F.interpolate(box, (size, size), mode="bilinear", antialias=shrinks)[0]
    return resized
