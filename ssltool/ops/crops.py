"""Random resized crops and mirroring of whole batches, each picture with numbers of its own.

Shapes: B pictures, C channels, S their side, T side of the result, n tries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.random import Draws

_TRIES = 10


def random_boxes(
    draws: Draws, side: int, area: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Tensor:
    """Draw the boxes of random resized crops (Szegedy et al. 2015, section 6, as torchvision draws them).

    Ten times an area is drawn uniformly and an aspect ratio log-uniformly; the first box that fits is placed
    uniformly. If none fits, the whole picture is taken.

    Args:
        draws: The pictures' random numbers.
        side: S in pixels.
        area: Least and greatest share of the picture's area, 0..1.
        ratio: Least and greatest width / height.

    Returns:
        int64 ``[B, 4]``: top, left, height, width in pixels.
    """
    u, v = draws.uniform(_TRIES), draws.uniform(_TRIES)
    areas = (area[0] + u * (area[1] - area[0])) * side**2
    ratios = torch.exp(math.log(ratio[0]) + v * math.log(ratio[1] / ratio[0]))
    width, height = (areas * ratios).sqrt().round().long(), (areas / ratios).sqrt().round().long()
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # the first of equal maxima
    found = fits.any(dim=1)
    height = torch.where(found, height.gather(1, first)[:, 0], side)
    width = torch.where(found, width.gather(1, first)[:, 0], side)
    place = draws.uniform(2)
    top = (place[:, 0] * (side - height + 1)).long()
    left = (place[:, 1] * (side - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def resized_crop(images: Tensor, boxes: Tensor, size: int, mirrored: Tensor | None = None) -> Tensor:
    """Cut a box out of each picture and resize it, bilinear; boxes larger than the result are not antialiased.

    Bytes are rounded to bytes, on a CPU after each axis as Pillow does it, so there a value may be off by one.

    Args:
        images: uint8 or float ``[B, C, S, S]``.
        boxes: ``[B, 4]``: top, left, height, width in pixels, inside the picture.
        size: T.
        mirrored: bool ``[B]``, true = left and right exchanged.

    Returns:
        ``[B, C, T, T]`` of the dtype of ``images``.
    """
    resize = _resized_one_by_one if images.device.type == "cpu" else _resized_together
    return resize(images, boxes, size, mirrored)


def _resized_together(images: Tensor, boxes: Tensor, size: int, mirrored: Tensor | None) -> Tensor:
    """`resized_crop` of the whole batch in one sampling."""
    height, width = images.shape[-2:]
    top, left, box_height, box_width = boxes.to(torch.float32).unbind(dim=1)
    # Pixel centres of the result, in pixels of the picture, kept at the box's own border pixels as a real cut would.
    steps = (torch.arange(size, device=images.device) + 0.5) / size
    x = (steps * box_width[:, None] - 0.5).clamp_min(0).minimum(box_width[:, None] - 1) + left[:, None]
    y = (steps * box_height[:, None] - 0.5).clamp_min(0).minimum(box_height[:, None] - 1) + top[:, None]
    if mirrored is not None:
        x = torch.where(mirrored[:, None], x.flip(1), x)
    grid = torch.stack(
        [
            ((2 * x + 1) / width - 1)[:, None, :].expand(-1, size, -1),
            ((2 * y + 1) / height - 1)[:, :, None].expand(-1, -1, size),
        ],
        dim=-1,
    )
    resized = F.grid_sample(images.to(torch.float32), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return resized if images.is_floating_point() else resized.round().to(images.dtype)


def _resized_one_by_one(images: Tensor, boxes: Tensor, size: int, mirrored: Tensor | None) -> Tensor:
    """`resized_crop` on a CPU: resizing one axis after the other is faster there, of bytes five times."""
    last = images.stride(1) == 1  # channels last, of which torch resizes bytes three times as fast
    form = torch.channels_last if last else torch.contiguous_format
    found = torch.empty((len(images), images.shape[1], size, size), dtype=images.dtype, memory_format=form)
    flips = [False] * len(images) if mirrored is None else mirrored.tolist()
    for number, ((top, left, height, width), flip) in enumerate(zip(boxes.tolist(), flips, strict=True)):
        box = images[number : number + 1, :, top : top + height, left : left + width]
        # Mirrored before it is resized: the box is copied then anyway.
        found[number] = F.interpolate(box.flip(-1) if flip else box, (size, size), mode="bilinear")[0]
    return found
