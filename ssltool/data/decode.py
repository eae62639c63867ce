"""One image file to pixels: ``decode`` gives an RGB image, ``read_square`` the square that training
uses.

Rules, the same for every format:

- EXIF orientation is applied; animations and multi-page files give their first frame.
- Gray becomes RGB with three equal channels; CMYK, YCbCr and Lab are converted.
- Anything with transparency (palette, gray or color with alpha, a transparent color) is laid on
  white.
- 16-bit gray keeps its high byte. Pillow does the same to 16-bit color.
- 32-bit integers between 0 and 65535 are read as 16-bit gray; other ranges are stretched, lowest to
  0, highest to 255.
- Floats between 0 and 1 are multiplied by 255; other ranges are stretched alike, NaN and infinity
  becoming 0.

Refused with :class:`~ssltool.errors.UnreadableImage`: what is no image, a truncated or corrupt file
(never read as half an image), more than 179 megapixels, and a shorter side under 8 px.

JPEG files are decoded at the smallest of the scales 1/1, 1/2, 1/4, 1/8 that is not below the
target. That scaling drops the high DCT frequencies of each block, a low-pass filter of its own, so
decoding at twice the target would buy no protection against aliasing; the last step, less than a
factor of two, is an antialiased resize. Gray and color JPEGs are read by simplejpeg if it is
installed (the extra ``fast``): a third faster than by Pillow, with the same pixels. Whatever it
finds wrong is left to Pillow to judge.
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
"""Where Pillow, too, suspects a decompression bomb; one such image takes 0.7 GB of memory."""

# A fixed list: Pillow would also open EPS (which starts Ghostscript) and formats nobody keeps
# images in. TGA comes last because it has no signature and is recognized by a plausible header
# only.
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

# What Pillow and its plugins were seen to raise on damaged data, besides their own
# UnidentifiedImageError (an OSError).
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
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} megapixels"
# What Pillow logs about a damaged file would land in the middle of a progress bar; the exception
# says it all.
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
"""How pixels ``[H, W, 3]`` stored in each EXIF orientation are turned."""


def read_square(file: ImageFile, size: int) -> NDArray[np.uint8]:
    """Decode an image and cut its center square.

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
    """Decode an image to RGB, upright, by the rules on top of this file.

    Args:
        file: Path or binary stream.
        short_side: Length in pixels that the shorter side will be resized to. A JPEG is then
            decoded at a reduced scale where that leaves the shorter side at least this long.
            ``None`` decodes at full size.

    Returns:
        An image of mode ``"RGB"`` that no longer needs the file.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    return Image.fromarray(_pixels(file, short_side))


def _pixels(file: ImageFile, short_side: int | None) -> NDArray[np.uint8]:
    """As `decode`, but uint8 ``[H, W, 3]``."""
    found = _fast_jpeg(file, short_side)
    if found is None:
        with _opened(file) as image:
            scale = _scale(image.size, short_side)
            # The request is square, so it holds for both sides and orientation need not be known
            # yet.
            image.draft(None, (image.size[0] // scale, image.size[1] // scale))
            image.load()
            pixels = np.asarray(_to_rgb(image))
            # Read after loading: PNG may store EXIF behind the pixels, and TIFF turns itself and
            # drops the tag.
            found = pixels, _orientation(image)
    pixels, orientation = found
    return (
        np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels
    )


def _scale(size: tuple[int, int], short_side: int | None) -> int:
    """The largest of the divisors 8, 4, 2, 1 that leaves the shorter side at least this long."""
    return next(
        (s for s in (8, 4, 2) if short_side is not None and min(size) // s >= short_side), 1
    )


def _fast_jpeg(file: ImageFile, short_side: int | None) -> tuple[NDArray[np.uint8], int] | None:
    """Pixels ``[H, W, 3]`` and orientation of a gray or color JPEG by simplejpeg; None if Pillow
    has to read it.
    """
    if simplejpeg is None:
        return None
    try:
        data = _jpeg_bytes(file)
        if data is None:
            return None
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if (
            space not in ("YCbCr", "RGB", "Gray")
            or min(width, height) < MIN_SIDE
            or width * height > MAX_PIXELS
        ):
            return None
        scale = _scale((width, height), short_side)
        # The least size that this scale gives: no scale between Pillow's is taken, so both give the
        # same pixels.
        low, narrow = -(-height // scale), -(-width // scale)
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=low, min_width=narrow)
    except (OSError, ValueError):  # not there, truncated, corrupt or odd
        return None
    # Pillow's reading of the header takes a third as long as all of the above: it looks only where
    # there is EXIF.
    if not _has_exif(data):
        return pixels, 1
    with _opened(io.BytesIO(data)) as image:
        return pixels, _orientation(image)


def _has_exif(data: bytes) -> bool:
    """Whether an APP1 segment (EXIF or XMP) comes before a JPEG's pixels; also true where segments
    make no sense.
    """
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xda":  # start of scan: what follows are pixels
            return False
        if marker == b"\xe1":
            return True
        if marker == b"\xff":  # padding
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return True


def _jpeg_bytes(file: ImageFile) -> bytes | None:
    """The whole file if it begins as a JPEG; a stream stays where it was.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb", buffering=0) as stream:  # read at once into one piece of memory
            return _jpeg_bytes(stream)
    place = file.tell()
    try:
        file.seek(0)
        if file.read(3) != b"\xff\xd8\xff":
            return None
        file.seek(0)
        return file.read()
    finally:
        file.seek(place)


def square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the shorter side to ``size`` keeping the aspect and cut the center square; small
    images are enlarged.

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
    if not center.flags.writeable:  # what Pillow lends; torch would warn
        center = center.copy()
    # The batch of one comes before the channels move: with strides in any other order torch does
    # not see that they are last, takes half as long again and answers channels first.
    shown = torch.from_numpy(center)[None].permute(0, 3, 1, 2)
    if (
        side > size
        # fewer rows first: torch resizes rows three times as slowly as columns, and begins with them
    ):
        shown = F.interpolate(shown, (size, side), mode="bilinear", antialias=True)
    resized = F.interpolate(shown, (size, size), mode="bilinear", antialias=True)
    found: NDArray[np.uint8] = resized.permute(0, 2, 3, 1)[0].numpy()
    return found


def fitted(image: Image.Image, short_side: int) -> Image.Image:
    """Resize the shorter side to ``short_side`` px keeping the aspect; smaller images stay as they
    are.
    """
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def read_size(file: ImageFile) -> tuple[int, int]:
    """Width and height in pixels as stored (before EXIF orientation), from the header alone.

    Raises:
        UnreadableImage: The header cannot be read, or gives a size that is refused.
    """
    with _opened(file) as image:
        return image.size


@contextmanager
def _opened(file: ImageFile) -> Iterator[Image.Image]:
    """Open an image and translate whatever goes wrong, then or in the body, to ``UnreadableImage``."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images below its limit, odd EXIF and odd TIFF tags: once per
            # file and epoch.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_formats()) as image:
                _check_size(*image.size)
                yield image
    except UnreadableImage:
        raise
    except _CORRUPT as error:
        raise UnreadableImage(_reason(error, file)) from error


@cache
def _formats() -> tuple[str, ...]:
    """Formats of our list that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int) -> None:
    if (
        width * height > MAX_PIXELS
    ):  # Pillow checks too, unless another library switched its limit off.
        raise UnreadableImage(_TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"{width}x{height} px, smaller than {MIN_SIDE} px")


def _reason(error: BaseException, file: ImageFile) -> str:
    """Say in a few words, without the path, what an exception of Pillow's means."""
    if isinstance(error, Image.DecompressionBombError):
        return _TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return "empty file" if _is_empty(file) else "not an image in a known format"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    words = " ".join(str(error).split()) or type(error).__name__
    return (
        words
        if words.startswith("image file is truncated")
        else f"corrupt or truncated ({words[:80]})"
    )


def _is_empty(file: ImageFile) -> bool:
    if isinstance(file, str | os.PathLike):
        return os.path.getsize(file) == 0
    return file.seek(0, os.SEEK_END) == 0


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 where there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _CORRUPT:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
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
    """Bring 32-bit values, integer or float, to 0..255 by the rules on top of this file."""
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
