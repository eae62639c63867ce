"""Open image files by Pillow: which formats and sizes are accepted, and one-line errors."""

from __future__ import annotations

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from ssltool.errors import UnreadableImage

ImagePath = str | os.PathLike[str] | BinaryIO
"""An image file: its path, or a stream of its bytes."""
MIN_SIDE = 8
"""Pixels of the shorter side of the smallest image."""
MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs.

Measured at 64 px for such an image, beside what the process has: 1.2 GB for PNG, TIFF and PPM in
RGB, 1.4 to 1.5 GB for gray, a palette and 16 bits, 2.2 GB with opacity, 2.7 GB for WebP. A JPEG is
decoded at a reduced scale and takes 0.1 GB, or 0.5 GB if it is progressive.
"""
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
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
CORRUPT = (
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
"""Exceptions that Pillow and its plugins raise on damaged data."""
_TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} megapixels"
_ORIENTATION_TAG = 0x0112
# Pillow's log messages would break a progress bar; the exception tells the same.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def opened_image(file: ImagePath) -> Iterator[Image.Image]:
    """Open an image by Pillow, without decoding it.

    Args:
        file: Path or binary stream.

    Raises:
        UnreadableImage: It is no image of an accepted format and size, or Pillow raised one of
            `CORRUPT`, also in the body of the ``with`` block.
    """
    truncated_allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, odd EXIF and odd TIFF tags: once per file and epoch.
            warnings.simplefilter("ignore")
            # Set by some libraries: Pillow would then fill up what is missing.
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            with Image.open(file, formats=_formats_of(file)) as image:
                check_size(*image.size)
                yield image
    except UnreadableImage:
        raise
    except CORRUPT as error:
        raise UnreadableImage(_reason(error, file)) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated_allowed


@contextmanager
def opened_stream(file: ImagePath) -> Iterator[BinaryIO]:
    """A binary stream of a file; a stream keeps its position."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb", buffering=0) as stream:  # unbuffered: one read, no copy
            yield stream
        return
    position = file.tell()
    try:
        yield file
    finally:
        file.seek(position)


def dimensions(file: ImagePath) -> tuple[int, int]:
    """Width and height in pixels as stored, before EXIF orientation, from the header alone.

    Raises:
        UnreadableImage: The header cannot be read, or gives a size that is refused.
    """
    with opened_image(file) as image:
        return image.size


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


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image; 1 without one, or if the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except CORRUPT:
        return 1
    return value if isinstance(value, int) else 1


def _formats_of(file: ImagePath) -> tuple[str, ...]:
    """The formats that a file may be of; the decoder of HEIC is imported for its files alone.

    Raises:
        UnreadableImage: It is a HEIC file, and the decoder is not installed.
    """
    with opened_stream(file) as stream:
        stream.seek(0)
        head = stream.read(12)
    if head[4:8] != b"ftyp" or head[8:] not in _HEIF_BRANDS:
        return _formats()
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImage("HEIC needs pillow-heif; type pip install 'ssltool[heic]'") from error
    pillow_heif.register_heif_opener()
    return ("HEIF", *_formats())


@cache
def _formats() -> tuple[str, ...]:
    """The accepted formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _reason(error: BaseException, file: ImagePath) -> str:
    """A short reason, without the path, for an exception of Pillow's."""
    if isinstance(error, Image.DecompressionBombError):
        return _TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(file)
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("image file is truncated"):
        return text
    return f"corrupt or truncated ({text[:80]})"


def _unidentified(file: ImagePath) -> str:
    """Why Pillow has opened a file as nothing."""
    with opened_stream(file) as stream:
        stream.seek(0)
        start, signature = stream.read(4), stream.read(128)[124:]
    if signature == b"DICM":
        return "a DICOM file: type --channels 1 --value-range auto to read its values"
    if start in (b"II*\0", b"MM\0*"):
        return (
            "a damaged TIFF file, or with samples of a kind that cannot be read as colors; "
            "'ssltool pretrain --channels N' reads their values"
        )
    return "not an image in a known format" if start else "empty file"
