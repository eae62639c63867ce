"""JPEG files decoded in batches on a GPU, and resized there.

What the GPU is given is decided by `ssltool.data.decode_jpeg.plain_jpeg`; all else, and what the
decoder refuses, is decoded on the CPU. There libjpeg decodes large files at a reduced scale, which
averages squares of 2, 4 or 8 pixels; here they are averaged afterwards. Other pixels come from the
decoder's arithmetic and from colors that are stored at half the resolution; see
docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.data.decode_jpeg import reduction
from ssltool.data.resizing import LONGEST

Decode = Callable[[list[Tensor]], list[Tensor]]
"""Files uint8 ``[n]`` on the CPU -> images uint8 ``[3, H, W]``; RuntimeError if one fails."""


class JpegDecoder:
    """Squares of JPEG files.

    Args:
        decode: The decoder of a batch.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def squares(
        self, files: Sequence[bytes], size: int, *, whole: bool
    ) -> list[tuple[Tensor, float] | None]:
        """Decode a batch.

        Args:
            files: Their bytes.
            size: Side S of the squares in pixels.
            whole: Whole images, stretched, and not center squares.

        Returns:
            For each file its square uint8 ``[3, S, S]`` and the width over height of what it shows;
            None if it cannot be decoded.
        """
        images = self._images(
            [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        )
        resize = stretched if whole else square
        return [None if image is None else resize(reduced(image, size), size) for image in images]

    def _images(self, files: list[Tensor]) -> Sequence[Tensor | None]:
        try:
            return self._decode(files)
        except RuntimeError:  # of one file: it says not of which
            if len(files) == 1:
                return [None]
        return [image for file in files for image in self._images([file])]


def cuda_decoder(device: torch.device) -> JpegDecoder | None:
    """The decoder of torchvision on a GPU; None without one, or if it was built without it."""
    if device.type != "cuda":
        return None
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(files: list[Tensor]) -> list[Tensor]:
        decoded: Any = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
        return list(decoded)

    try:
        from torchvision.io import encode_jpeg

        decode([encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8))])
    except RuntimeError:
        return None
    return JpegDecoder(decode)


def reduced(image: Tensor, short_side: int) -> Tensor:
    """An image ``[3, H, W]`` at the scale at which libjpeg would decode it, float32 unless 1/1."""
    height, width = image.shape[1:]
    by = reduction((width, height), short_side)
    if by == 1:
        return image
    edges = (0, -width % by, 0, -height % by)
    return F.avg_pool2d(F.pad(image[None].float(), edges, mode="replicate"), by)[0].round()


def square(image: Tensor, size: int) -> tuple[Tensor, float]:
    """As `ssltool.data.resizing.square`, of an image ``[3, H, W]`` on any device."""
    height, width = image.shape[1:]
    longest = LONGEST * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    image = image[:, top : top + longest, left : left + longest]
    height, width = image.shape[1:]
    short = min(height, width)
    resized = _resized(image, size * height // short, size * width // short)
    top, left = (round((side - size) / 2) for side in resized.shape[1:])
    return resized[:, top : top + size, left : left + size], 1.0


def stretched(image: Tensor, size: int) -> tuple[Tensor, float]:
    """As `ssltool.data.resizing.stretched`, of an image ``[3, H, W]`` on any device."""
    height, width = image.shape[1:]
    return _resized(image, size, size), width / height


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, in float32: torch resizes bytes on the CPU alone."""
    if image.shape[1:] == (height, width):
        return image.to(torch.uint8)
    resized = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
