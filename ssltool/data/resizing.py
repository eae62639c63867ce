"""Resize decoded images: to center squares, to stretched squares, or by the shorter side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

LONGEST = 16
"""Times the shorter side: what of an image `square` looks at."""


def square(pixels: NDArray[Any], size: int) -> NDArray[Any]:
    """Resize the shorter side to ``size`` and crop the center square; small images are enlarged.

    The geometry is that of torchvision's ``Resize`` and ``CenterCrop``, and so of timm and
    transformers, which users of the weights will apply: the longer side is rounded down to whole
    pixels, and the crop begins at a whole pixel. The resize is bilinear with antialiasing, as
    theirs; on bytes torch's is three times as fast as Pillow's.

    Args:
        pixels: uint8 or float32 ``[H, W, C]``.
        size: Side T of the square in pixels.

    Returns:
        ``[T, T, C]`` of the same type.
    """
    pixels = _shortened(pixels)
    height, width = pixels.shape[:2]
    if height < width:
        whole = _resized(pixels, size, size * width // height)
        left = round((whole.shape[1] - size) / 2)
        return np.ascontiguousarray(whole[:, left : left + size])
    whole = _resized(pixels, size * height // width, size)
    top = round((whole.shape[0] - size) / 2)
    return whole[top : top + size]


def stretched(pixels: NDArray[Any], size: int) -> tuple[NDArray[Any], float]:
    """Resize both sides of a whole image to ``size``, as `square` does.

    Args:
        pixels: uint8 or float32 ``[H, W, C]``.
        size: Side T of the square in pixels.

    Returns:
        ``[T, T, C]`` of the same type, and W / H.
    """
    height, width = pixels.shape[:2]
    return _resized(pixels, size, size), width / height


def fitted(image: Image.Image, short_side: int) -> Image.Image:
    """Resize the shorter side to ``short_side`` px, keeping the aspect; never enlarge."""
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def _shortened(pixels: NDArray[Any]) -> NDArray[Any]:
    """The middle of images of extreme shapes, which would take much memory when enlarged."""
    height, width = pixels.shape[:2]
    longest = LONGEST * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]


def _resized(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize ``[H, W, C]`` to ``[height, width, C]``, bilinear with antialiasing."""
    before = pixels.shape[:2]
    if before == (height, width):
        return pixels
    if not pixels.flags.writeable:  # memory of Pillow's; torch would warn
        pixels = pixels.copy()
    # The batch axis is added before the permutation: otherwise torch does not recognize the memory
    # format as channels last, takes half as long again and returns channels first.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    if before[0] > height:
        # Height first: torch would begin with the width, which is three times as slow per pixel.
        image = F.interpolate(image, (height, before[1]), mode="bilinear", antialias=True)
    resized = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    result: NDArray[Any] = resized.permute(0, 2, 3, 1)[0].numpy()
    return result
