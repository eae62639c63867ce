"""Decode JPEG files: by simplejpeg where it can, at a reduced scale, and refuse incomplete ones."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data import jpeg
from ssltool.data.color import managed_array
from ssltool.data.opening import (
    CORRUPT,
    MAX_PIXELS,
    MIN_SIDE,
    ImagePath,
    exif_orientation,
    opened_image,
    opened_stream,
)
from ssltool.errors import UnreadableImage

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


def fast_pixels(file: ImagePath, short_side: int | None) -> tuple[NDArray[np.uint8], int] | None:
    """Decode a gray or color JPEG by simplejpeg.

    Args:
        file: Path or binary stream.
        short_side: As for `ssltool.data.decode.decode`.

    Returns:
        Pixels as stored, uint8 ``[H, W, 3]``, RGB, and the EXIF orientation; None if the file is
        another one or has to be decoded by Pillow, which says why if it is damaged.
    """
    if simplejpeg is None:
        return None
    try:
        data = _jpeg_bytes(file)
        if data is None:
            return None
        header = jpeg.read_header(data)
        if not header.one_scan:
            jpeg.end_of_image(data)
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        accepted = min(width, height) >= MIN_SIDE and width * height <= MAX_PIXELS
        if not accepted or space not in ("YCbCr", "RGB", "Gray"):
            return None
        scale = reduction((width, height), short_side)
        # simplejpeg has scales between those of Pillow; the exact size excludes them.
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    except (OSError, ValueError):  # missing, truncated, corrupt or unusual
        return None
    if header.profile is not None:
        pixels = managed_array(pixels, header.profile, gray=space == "Gray")
    # Reading the header by Pillow takes a third of the time of all the above: only with EXIF.
    if not header.exif:
        return pixels, 1
    with opened_image(io.BytesIO(data)) as image:
        return pixels, exif_orientation(image)


def simplejpeg_version() -> str:
    """Version of simplejpeg; ``none`` if it is not installed."""
    return str(getattr(simplejpeg, "__version__", "none"))


def reduction(size: tuple[int, int], short_side: int | None) -> int:
    """By how much the scale of a decoded JPEG is reduced: the largest of 8, 4, 2, 1 that leaves
    the shorter side at least this long.
    """
    if short_side is None:
        return 1
    return next((scale for scale in (8, 4, 2) if min(size) // scale >= short_side), 1)


def load_at_scale(image: Image.Image, scale: int) -> None:
    """Decode an opened image; a JPEG at 1 / ``scale`` of its size (1, 2, 4 or 8)."""
    image.draft(None, (image.size[0] // scale, image.size[1] // scale))
    image.load()


def check_blocks(file: ImagePath, image: Image.Image, scale: int) -> None:
    """Refuse a JPEG image, loaded at 1 / ``scale``, if libjpeg has made up a part of it.

    Raises:
        UnreadableImage: Data is missing, or zeros are in its place.
    """
    data = _jpeg_bytes(file) or b""
    end = jpeg.end_of_image(data)

    def is_same(other: bytes) -> bool:
        try:
            with Image.open(io.BytesIO(other), formats=["JPEG"]) as altered:
                load_at_scale(altered, scale)
                return altered.mode == image.mode and altered.tobytes() == image.tobytes()
        except CORRUPT:
            return False

    if not is_same(jpeg.continued(data, end)):
        raise UnreadableImage("image file is truncated (blocks are missing before its end)")
    cuts = jpeg.without_zeros(data, end)
    if cuts and is_same(cuts[0]) and not is_same(cuts[1]) and not _ends_in_mid_gray(image):
        raise UnreadableImage("image file is truncated (filled with zeros)")


def _ends_in_mid_gray(image: Image.Image) -> bool:
    """Whether the last block looks like a missing one."""
    last = image.convert("RGB").getpixel((image.width - 1, image.height - 1))
    return last == (128, 128, 128)


def plain_jpeg(file: ImagePath) -> bytes | None:
    """The bytes of a file that any decoder of JPEG reads alike, for `ssltool.data.gpu_jpeg`.

    Returns:
        None unless it is a gray or YCbCr JPEG of one scan with its end marker, upright, without a
        color profile, and within the limits on the size. Blocks may be missing before the end
        marker: to know that, it would have to be decoded.
    """
    try:
        data = _jpeg_bytes(file)
        if data is None:
            return None
        header = jpeg.read_header(data)
        jpeg.end_of_image(data)
        with opened_image(io.BytesIO(data)) as image:
            upright = not header.exif or exif_orientation(image) == 1
            ycc = image.mode in ("L", "RGB") and image.info.get("adobe_transform") != 0
    except (OSError, UnreadableImage):
        return None
    return data if header.one_scan and header.profile is None and upright and ycc else None


def _jpeg_bytes(file: ImagePath) -> bytes | None:
    """The whole file if it begins as a JPEG, else None.

    Raises:
        OSError: It cannot be read.
    """
    with opened_stream(file) as stream:
        stream.seek(0)
        if stream.read(3) != b"\xff\xd8\xff":
            return None
        stream.seek(0)
        return stream.read()
