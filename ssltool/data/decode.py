"""Decode image files to RGB: whole images (`decode`) or the center squares that training uses.

Rules, the same for every format:

- EXIF orientation is applied; animations and multi-page files give their first frame.
- Gray becomes RGB with three equal channels; CMYK, YCbCr and Lab are converted.
- Transparent images (palette, gray or color with alpha, a transparent color) are pasted on white.
- 16-bit gray keeps its high byte, as Pillow does for 16-bit color.
- 32-bit integers in 0..65535 are read as 16-bit gray; other ranges are stretched to 0..255.
- Floats in 0..1 are multiplied by 255; other ranges are stretched to 0..255, and NaN and infinity
  become 0.

Refused with :class:`~ssltool.errors.UnreadableImage`: files that are no images, truncated or
corrupt files (never decoded in part), more than 179 megapixels, and a shorter side under 8 px.

JPEG files are decoded at the smallest of the scales 1/1, 1/2, 1/4, 1/8 that is not below the
target. Scaling drops the high DCT frequencies of each block, which is a low-pass filter, so that
decoding at twice the target would not reduce aliasing; the rest, less than a factor of two, is an
antialiased resize. Gray and color JPEGs are decoded by simplejpeg if it is installed (the extra
``fast``): a third faster than Pillow, with the same pixels. Pillow decodes what simplejpeg refuses.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.nn import functional as F

from ssltool.errors import UnreadableImage

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

ImageFile = str | os.PathLike[str] | BinaryIO

MIN_SIDE = 8
MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs; such an image takes 0.7 GB of memory."""

# A fixed list: Pillow would also open EPS, which starts Ghostscript, and rare formats. TGA is last
# because it has no signature and is recognized by a plausible header only.
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "MPO",
    "BMP",
    "TIFF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "ICO",
    "TGA",
)

# Exceptions that Pillow and its plugins raise on damaged data.
_CORRUPT = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} megapixels"
# Pillow's log messages would break a progress bar; the exception tells the same.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ORIENTATION_TAG = 0x0112
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""For each EXIF orientation, the transposition of pixels ``[H, W, 3]`` to upright."""


def read_square(file: ImageFile, size: int) -> NDArray[np.uint8]:
    """Decode an image and crop its resized center square.

    Args:
        file: Path or binary stream.
        size: Side of the square in pixels.

    Returns:
        uint8 ``[size, size, 3]``, RGB.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    return square(_pixels(file, size), size)


def decode(file: ImageFile, short_side: int | None = None) -> Image.Image:
    """Decode an image to upright RGB, by the rules at the top of this file.

    Args:
        file: Path or binary stream.
        short_side: Length in pixels that the shorter side will be resized to: a JPEG is decoded at
            a reduced scale that leaves the shorter side at least this long. None decodes at full
            size.

    Returns:
        An image of mode ``"RGB"`` that no longer needs the file.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    return Image.fromarray(_pixels(file, short_side))


def _pixels(file: ImageFile, short_side: int | None) -> NDArray[np.uint8]:
    """As `decode`, but uint8 ``[H, W, 3]``."""
    pixels, orientation = _fast_jpeg(file, short_side) or _pillow(file, short_side)
    if orientation not in _UPRIGHT:
        return pixels
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def _pillow(file: ImageFile, short_side: int | None) -> tuple[NDArray[np.uint8], int]:
    """Pixels ``[H, W, 3]`` as stored, and EXIF orientation, by Pillow."""
    with _open(file) as image:
        scale = _scale(image.size, short_side)
        image.draft(None, (image.size[0] // scale, image.size[1] // scale))
        image.load()
        pixels = np.asarray(to_rgb(image))
        # After loading: PNG may store EXIF after the pixels, and TIFF is turned and loses its tag.
        return pixels, _orientation(image)


def _scale(size: tuple[int, int], short_side: int | None) -> int:
    """The largest of the divisors 8, 4, 2, 1 that leaves the shorter side at least this long."""
    if short_side is None:
        return 1
    return next((scale for scale in (8, 4, 2) if min(size) // scale >= short_side), 1)


def _fast_jpeg(file: ImageFile, short_side: int | None) -> tuple[NDArray[np.uint8], int] | None:
    """As `_pillow` for a gray or color JPEG, by simplejpeg; None if it does not apply."""
    if simplejpeg is None:
        return None
    try:
        data = _jpeg_bytes(file)
        if data is None:
            return None
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        accepted = min(width, height) >= MIN_SIDE and width * height <= MAX_PIXELS
        if not accepted or space not in ("YCbCr", "RGB", "Gray"):
            return None
        scale = _scale((width, height), short_side)
        # simplejpeg has scales between those of Pillow; the exact size excludes them.
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    except (OSError, ValueError):  # missing, truncated, corrupt or unusual
        return None
    # Reading the header by Pillow takes a third of the time of all the above: only with EXIF.
    if not _has_exif(data):
        return pixels, 1
    with _open(io.BytesIO(data)) as image:
        return pixels, _orientation(image)


def _has_exif(data: bytes) -> bool:
    """Whether a JPEG has an APP1 segment (EXIF or XMP) before its pixels, or malformed segments."""
    offset = 2
    while data[offset : offset + 1] == b"\xff":
        marker = data[offset + 1 : offset + 2]
        if marker == b"\xda":  # start of scan: pixels follow
            return False
        if marker == b"\xe1":
            return True
        if marker == b"\xff":  # padding
            offset += 1
            continue
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return True


def _jpeg_bytes(file: ImageFile) -> bytes | None:
    """The whole file if it begins as a JPEG, else None; a stream keeps its position.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb", buffering=0) as stream:  # unbuffered: one read, no copy
            return _jpeg_bytes(stream)
    position = file.tell()
    try:
        file.seek(0)
        if file.read(3) != b"\xff\xd8\xff":
            return None
        file.seek(0)
        return file.read()
    finally:
        file.seek(position)


def square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Crop the center square and resize it to ``size``; small images are enlarged.

    The resize is bilinear with antialiasing, as in torchvision's transforms, which users of the
    weights will apply; on bytes torch's is three times as fast as Pillow's.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        size: Side T of the square in pixels.

    Returns:
        uint8 ``[T, T, 3]``.
    """
    height, width = pixels.shape[:2]
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    center = pixels[top : top + side, left : left + side]
    if side == size:
        return center
    if not center.flags.writeable:  # memory of Pillow's; torch would warn
        center = center.copy()
    # The batch axis is added before the permutation: otherwise torch does not recognize the memory
    # format as channels last, takes half as long again and returns channels first.
    image = torch.from_numpy(center)[None].permute(0, 3, 1, 2)
    if side > size:
        # Height first: torch would begin with the width, which is three times as slow per pixel.
        image = F.interpolate(image, (size, side), mode="bilinear", antialias=True)
    resized = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
    result: NDArray[np.uint8] = resized.permute(0, 2, 3, 1)[0].numpy()
    return result


def fitted(image: Image.Image, short_side: int) -> Image.Image:
    """Resize the shorter side to ``short_side`` px, keeping the aspect; never enlarge."""
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def dimensions(file: ImageFile) -> tuple[int, int]:
    """Width and height in pixels as stored, before EXIF orientation, from the header alone.

    Raises:
        UnreadableImage: The header cannot be read, or gives a size that is refused.
    """
    with _open(file) as image:
        return image.size


@contextmanager
def _open(file: ImageFile) -> Iterator[Image.Image]:
    """Open an image; errors of Pillow, also in the body, become ``UnreadableImage``."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, odd EXIF and odd TIFF tags: once per file and epoch.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_formats()) as image:
                check_size(*image.size)
                yield image
    except UnreadableImage:
        raise
    except _CORRUPT as error:
        raise UnreadableImage(_reason(error, file)) from error


@cache
def _formats() -> tuple[str, ...]:
    """The accepted formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def check_size(width: int, height: int) -> None:
    """Refuse images that are too small or too large.

    Raises:
        UnreadableImage: A side is under `MIN_SIDE` px, or there are more than `MAX_PIXELS`.
    """
    # Pillow checks too, unless another library switched its limit off.
    if width * height > MAX_PIXELS:
        raise UnreadableImage(_TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"{width}x{height} px, smaller than {MIN_SIDE} px")


def _reason(error: BaseException, file: ImageFile) -> str:
    """A short reason, without the path, for an exception of Pillow's."""
    if isinstance(error, Image.DecompressionBombError):
        return _TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return "empty file" if _is_empty(file) else "not an image in a known format"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("image file is truncated"):
        return text
    return f"corrupt or truncated ({text[:80]})"


def _is_empty(file: ImageFile) -> bool:
    if isinstance(file, str | os.PathLike):
        return os.path.getsize(file) == 0
    return file.seek(0, os.SEEK_END) == 0


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image; 1 without one, or if the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _CORRUPT:
        return 1
    return value if isinstance(value, int) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to ``"RGB"``."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_to_bytes(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map 32-bit integers or floats to 0..255 by the rules at the top of this file."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    if low >= 0 and values.dtype.kind == "i" and high <= 65535:
        return (values >> 8).astype(np.uint8)
    if low >= 0 and values.dtype.kind == "f" and high <= 1:
        low, high = 0.0, 1.0
    span = max(high - low, float(np.finfo(np.float32).tiny))
    scaled = (values.astype(np.float64) - low) * (255 / span)
    return np.where(finite, scaled, 0).round().astype(np.uint8)
