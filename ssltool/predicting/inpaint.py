"""Inpainting of a region of images of any size by a context encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssltool.data.decode import decode
from ssltool.errors import DataError, UnreadableImage
from ssltool.methods.context_encoder.regions import (
    Box,
    Context,
    bounding_box,
    central_box,
    hole_fraction,
    paste,
    read_context,
    window_around,
)
from ssltool.methods.context_encoder.task import ContextEncoder

_LIGHT = 127  # levels of a mask above which it is the region


class _Prepared(NamedTuple):
    mask: Tensor  # bool [H, W]
    context: Context


class Inpainter:
    """Paints a region of images; no other pixel changes (Pathak et al. 2016).

    Args:
        method: In evaluation mode.
        box: The region; None for ``mask``.
        mask: The region, bool ``[H, W]``; None for the center, whose size is the paper's half of
            the image, or what a network of central holes paints.
    """

    notes: tuple[str, ...]

    def __init__(
        self, method: ContextEncoder, box: Box | None = None, mask: Tensor | None = None
    ) -> None:
        self.method, self.box, self.mask = method, box, mask
        gray = method.encoder.in_channels == 1
        self.notes = ("the network reads gray levels and paints gray",) if gray else ()
        self.hole = hole_fraction(method.hole) if method.options.mask == "center" else None

    def prepare(self, pixels: Tensor) -> _Prepared:
        """The region of an image uint8 ``[3, H, W]``, and what the network reads.

        Raises:
            UnreadableImage: The region is not within the image, or leaves nothing to paint from.
        """
        height, width = pixels.shape[-2:]
        mask = self._region(width, height)
        window = window_around(bounding_box(mask), width, height, self.hole)
        context = read_context(pixels, mask, window, self.method.side)
        if context.mask.all():
            raise UnreadableImage("the region leaves nothing to paint it from")
        return _Prepared(mask, context)

    def predict(self, images: Sequence[Tensor], inputs: Sequence[_Prepared]) -> list[Tensor]:
        """Painted images uint8 ``[3, H, W]``, from the images and what `prepare` made of them."""
        device = self.method.hole.device
        squares = torch.stack([each.context.image for each in inputs])
        masks = torch.stack([each.context.mask for each in inputs])
        painted = self.method.paint(squares.to(device), masks.to(device)).cpu()
        return [
            paste(image, each.mask, each.context.window, square)
            for image, each, square in zip(images, inputs, painted, strict=True)
        ]

    def _region(self, width: int, height: int) -> Tensor:
        """Where to paint an image of this size, bool ``[H, W]``."""
        if self.mask is not None:
            rows, columns = self.mask.shape
            if (columns, rows) != (width, height):
                raise UnreadableImage(
                    f"it has {width}x{height} px, and the mask {columns}x{rows} px"
                )
            return self.mask
        box = self.box or central_box(width, height, *([self.hole] if self.hole else []))
        if box.left + box.width > width or box.top + box.height > height:
            raise UnreadableImage(f"it has {width}x{height} px, and the box goes beyond")
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[box.slices()] = True
        return mask


def read_mask(file: Path) -> Tensor:
    """Read a region from an image, white where to paint: bool ``[H, W]``.

    Raises:
        DataError: It cannot be read, or has no white pixels.
    """
    try:
        levels = np.asarray(decode(file.expanduser()).convert("L"))
    except UnreadableImage as error:
        raise DataError(f"--mask {file} cannot be read as an image: {error}") from error
    mask = torch.from_numpy(levels > _LIGHT)
    if not mask.any():
        raise DataError(f"--mask {file} has no light pixels; the region should be white on black")
    return mask
