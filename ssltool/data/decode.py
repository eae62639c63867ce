"""Decode image files to RGB: whole images (`decode`) or the center squares that training uses.

Pixels are uint8 sRGB ``[H, W, 3]``. Rules, the same for every format and in `DatasetSource`:

- EXIF orientation is applied; animations and multi-page files give their first frame.
- Gray becomes RGB with three equal channels; CMYK, YCbCr and Lab are converted.
- Color profiles (ICC, of RGB, gray and CMYK) of JPEG, PNG, WebP, AVIF and TIFF are converted to
  sRGB, relative colorimetric with black point compensation; one within 2 of 255 levels of sRGB is
  sRGB. A profile that is broken, or of another color space than the image, is ignored, as are
  profiles in other formats and other statements about color (gAMA, cHRM, cICP, nclx): without a
  usable profile colors are sRGB. HEIC (the extra ``heic``) is treated as AVIF is.
- Transparent images (palette, gray or color with alpha, a transparent color) are pasted on white.
  Refused: images that are transparent everywhere, and a transparent color in more than 8 bits.
- Samples of more than 8 bits keep their 8 highest bits: white is ``2**bits - 1``. The file gives
  the bits: the size of its samples, or less by BitsPerSample or MaxSampleValue of TIFF, or the
  maximum of PGM. PNG has no such field: sBIT tells how many bits were significant before scaling.
- Where the size of the samples is all there is to go by, an image that uses no value above a
  quarter of white is refused: it may hold 10 to 14 bits in 16. Gray of zeros alone is black. An
  image is never scaled by its own minimum or maximum, which would make images inconsistent.
- Color of fewer bits in 16 is refused also where they are declared, for Pillow keeps the high byte.
- Floats are in 0..1, or in 0..SMaxSampleValue of TIFF; NaN and infinity become 0. Other ranges,
  such as meters of height, are refused, and so are negative integers.
- A declared maximum counts only if it is 1 or ``2**n - 1``, n >= 8: others are statistics of the
  image.

TIFF, further: WhiteIsZero is inverted at every depth; planes may be separate. Samples after the
colors are dropped: infrared is not opacity. A single one with ExtraSamples 1 or 2 is opacity if
three quarters of its pixels are fully opaque or fully transparent; otherwise the image is refused,
for GDAL writes 2 by default. In files with tags of GeoTIFF or GDAL it never is. A colormap of
values below 256 has 8 bits. Refused: signed 8-bit samples, uncompressed YCbCr with subsampling, a
missing photometric interpretation, and what Pillow cannot read (such as 64-bit samples, big-endian
WhiteIsZero in 16 bits, some separate planes).

Refused with :class:`~ssltool.errors.UnreadableImage`: files that are no images, more than 179
megapixels, a shorter side under 8 px, and truncated or corrupt files, never decoded in part:

- JPEG: no end marker, scans or blocks missing before it, or more zeros before it than code blocks;
  arithmetic coding, of which this cannot be known. What follows the end marker is ignored.
- PNG: a chunk with a wrong checksum, or no IEND.
- WebP, AVIF, compressed TIFF: parts outside of the file, or pixels that end in more than 16 zero
  bytes (lossy WebP: and one for each 16 blocks). Fewer zeros may be pixels.
- GIF, JPEG 2000: as their decoders say.
- BMP, PPM, TGA, uncompressed TIFF, ICO without PNG: less than all pixels. Zeros are black pixels.

JPEG files are decoded at the smallest of the scales 1/1, 1/2, 1/4, 1/8 that is not below the
target. Scaling drops the high DCT frequencies of each block, which is a low-pass filter, so that
decoding at twice the target would not reduce aliasing; the rest, less than a factor of two, is an
antialiased resize. Gray and color JPEGs are decoded by simplejpeg if it is installed (the extra
``fast``), with the same pixels. Pillow decodes what simplejpeg refuses, and twice: the second time
with other data behind the last block, which shows whether blocks are missing. Without simplejpeg
decoding takes two to three times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features

from ssltool.data import decode_jpeg
from ssltool.data.color import to_rgb
from ssltool.data.integrity import check_complete
from ssltool.data.opening import ImagePath, exif_orientation, opened_image, opened_stream
from ssltool.data.resizing import square, stretched
from ssltool.data.samples import check_stored, read_samples
from ssltool.errors import UnreadableImage

DECODE_VERSION = 3
"""Version of the rules above; raised whenever they give other pixels."""
_BAND = 2**20  # pixels that are copied at a time
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""For each EXIF orientation, the transposition of pixels ``[H, W, C]`` to upright."""
_STORED_MODES = {"L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "F"}


def read_square(file: ImagePath, size: int) -> NDArray[np.uint8]:
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


def read_stretched(file: ImagePath, size: int) -> tuple[NDArray[np.uint8], float]:
    """Decode a whole image and resize both of its sides to ``size``.

    Returns:
        uint8 ``[size, size, 3]``, RGB, and the image's width over its height.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    return stretched(_pixels(file, size), size)


def decode(file: ImagePath, short_side: int | None = None) -> Image.Image:
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


def stored_values(file: ImagePath) -> NDArray[Any]:
    """Values of an image that Pillow opens, without conversion, upright: see
    `ssltool.data.values`.

    Returns:
        ``[H, W, C]``: uint8, of gray also uint16 or float32.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    with opened_image(file) as image:
        check_stored(image)
        _load_complete(file, image, 1)
        is_wide_pgm = image.format == "PPM" and image.mode == "I"
        if image.mode not in _STORED_MODES and not is_wide_pgm:
            raise UnreadableImage(f"colors of mode {image.mode}; expected channels of values")
        values = np.asarray(image).reshape(image.height, image.width, -1)
        values = values.astype(np.uint16) if is_wide_pgm else values
        return upright(values, exif_orientation(image))


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn pixels ``[H, W, C]`` of any type as their EXIF orientation says; 1 leaves them."""
    if orientation not in _UPRIGHT:
        return pixels
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def _pixels(file: ImagePath, short_side: int | None) -> NDArray[np.uint8]:
    """As `decode`, but uint8 ``[H, W, 3]``."""
    pixels, orientation = decode_jpeg.fast_pixels(file, short_side) or _pillow(file, short_side)
    return upright(pixels, orientation)


def _pillow(file: ImagePath, short_side: int | None) -> tuple[NDArray[np.uint8], int]:
    """Pixels ``[H, W, 3]`` as stored, and EXIF orientation, by Pillow."""
    with opened_image(file) as image:
        samples = read_samples(image)
        _load_complete(file, image, decode_jpeg.reduction(image.size, short_side))
        pixels = _array(to_rgb(image, samples))
        # After loading: PNG may store EXIF after the pixels, and TIFF is turned and loses its tag.
        return pixels, exif_orientation(image)


def _load_complete(file: ImagePath, image: Image.Image, scale: int) -> None:
    """Decode an opened image; refuse one that is not complete."""
    with opened_stream(file) as stream:
        check_complete(image, stream)
    decode_jpeg.load_at_scale(image, scale)
    if image.format in ("JPEG", "MPO"):
        decode_jpeg.check_blocks(file, image, scale)


def _array(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of an RGB image, in bands of rows: `numpy.asarray` takes them twice."""
    if image.width * image.height <= _BAND:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def decode_identity() -> str:
    """All that determines the pixels of a file beside the file: for cache keys.

    Returns:
        Version of the rules, and versions of the libraries that decode, convert and resize.
    """
    libraries = {"Pillow": PIL.__version__, "torch": torch.__version__}
    libraries["simplejpeg"] = decode_jpeg.simplejpeg_version()
    libraries |= installed("pillow-heif", "tifffile", "imagecodecs", "pydicom", "torchcodec")
    for name in ("libjpeg_turbo", "jpg_2000", "libtiff", "webp", "avif", "zlib", "littlecms2"):
        libraries[name] = str(features.version(name) or "none")
    versions = (f"{name} {version}" for name, version in libraries.items())
    return "; ".join((f"decode rules {DECODE_VERSION}", *versions))


def installed(*names: str) -> dict[str, str]:
    """Versions of the packages that are installed, without importing them."""
    versions: dict[str, str] = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
