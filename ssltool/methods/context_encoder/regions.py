"""Regions of images of any size, brought to the square that a context encoder reads, and back.

A network reads squares of side S, and a region may lie anywhere in an image of any size. What it
reads is a window around the region, about twice as long and as wide, so that the region covers
about a quarter of the square, as in training. A network that was trained on central holes gets a
window in whose hole the region lies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CENTER = 0.5  # side of the paper's region as a fraction of the image's
_PURE = 1 - 1e-4  # share of visible pixels in a pixel of the square that counts as visible
_MARGIN = 2  # px of a central hole that the region leaves free


class Box(NamedTuple):
    """A rectangle in pixels; what lies in it may be outside of the image."""

    left: int
    top: int
    width: int
    height: int

    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


class Context(NamedTuple):
    """A window of an image as the network reads it.

    Attributes:
        window: Where it lies in the image.
        image: float ``[3, S, S]`` in 0..1, made of visible pixels alone.
        mask: bool ``[1, S, S]``, true where to paint.
    """

    window: Box
    image: Tensor
    mask: Tensor


def central_box(width: int, height: int, fraction: float = _CENTER) -> Box:
    """The center of an image, a fraction of its width and height, at least a pixel."""
    inner = [max(1, round(fraction * side)) for side in (width, height)]
    left, top = ((side - size) // 2 for side, size in zip((width, height), inner, strict=True))
    return Box(left, top, *inner)


def bounding_box(mask: Tensor) -> Box:
    """The smallest rectangle that holds all true pixels of a mask, bool ``[H, W]``."""
    rows, columns = (mask.any(dim=dim).nonzero()[:, 0] for dim in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return Box(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)


def hole_fraction(hole: Tensor) -> float:
    """Side of a window's region that fits a central hole bool ``[1, 1, S, S]``, as a fraction."""
    side = int(hole.any(dim=-1).sum())
    return max(1, side - _MARGIN) / hole.shape[-1]


def window_around(region: Box, width: int, height: int, hole: float | None) -> Box:
    """The part of an image that the network reads to paint a region.

    Args:
        region: Bounding box of what is painted.
        width: Of the image.
        height: Of the image.
        hole: For a central hole, the region's side as a fraction of the window's, see
            `hole_fraction`; the window then may leave the image. None: twice the longer side of
            the region each way, moved and cut to stay inside.
    """
    if hole is not None:
        sizes = [math.ceil(size / hole) for size in (region.width, region.height)]
        starts = [
            start - (size - own) // 2
            for start, own, size in zip(region[:2], region[2:], sizes, strict=True)
        ]
        return Box(*starts, *sizes)
    longer = math.ceil(max(region.width, region.height) / _CENTER)
    sizes = [min(longer, side) for side in (width, height)]
    starts = [
        min(max(0, start - (size - own) // 2), side - size)
        for start, own, size, side in zip(
            region[:2], region[2:], sizes, (width, height), strict=True
        )
    ]
    return Box(*starts, *sizes)


def read_context(pixels: Tensor, mask: Tensor, window: Box, side: int) -> Context:
    """Resize a window, so that nothing of what is painted over is in it.

    Every pixel of the square is the mean of visible pixels alone, weighted as in antialiased
    bilinear resizing; one that would have had others too is painted. Outside of the image its
    border is repeated.

    Args:
        pixels: uint8 ``[3, H, W]``.
        mask: bool ``[H, W]``, true where to paint.
        window: Part of the image, or beyond it.
        side: S.
    """
    rows, columns = _indices(window, pixels.shape[-2:])
    visible = (~mask[rows][:, columns]).float()
    colors = pixels[:, rows][:, :, columns].float() / 255 * visible
    resized = F.interpolate(
        torch.cat([colors, visible[None]])[None], (side, side), mode="bilinear", antialias=True
    )[0]
    share = resized[3:]
    image = resized[:3] / share.clamp_min(1e-6)
    return Context(window, image.clamp(0, 1), share < _PURE)


def paste(pixels: Tensor, mask: Tensor, window: Box, painted: Tensor) -> Tensor:
    """Put what was painted into an image; no pixel outside of the mask changes.

    Args:
        pixels: uint8 ``[3, H, W]``.
        mask: bool ``[H, W]``.
        window: That `painted` shows.
        painted: float ``[3, S, S]`` in 0..1.

    Returns:
        uint8 ``[3, H, W]``.
    """
    height, width = pixels.shape[-2:]
    size = (window.height, window.width)
    smaller = window.height < painted.shape[-2] or window.width < painted.shape[-1]
    whole = F.interpolate(painted[None], size, mode="bilinear", antialias=smaller)[0]
    left, top = max(0, window.left), max(0, window.top)
    right, bottom = (
        min(width, window.left + window.width),
        min(height, window.top + window.height),
    )
    inside = Box(left, top, right - left, bottom - top)
    shown = Box(left - window.left, top - window.top, *inside[2:])
    levels = (whole[(slice(None), *shown.slices())].clamp(0, 1) * 255).round().byte()
    result = pixels.clone()
    part = (slice(None), *inside.slices())
    result[part] = torch.where(mask[inside.slices()], levels, pixels[part])
    return result


def _indices(window: Box, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows and columns of an image in a window; those of its border beyond it."""
    rows = torch.arange(window.top, window.top + window.height).clamp(0, size[0] - 1)
    columns = torch.arange(window.left, window.left + window.width).clamp(0, size[1] - 1)
    return rows, columns
