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

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features
from torch.nn import functional as F

from ssltool.data import jpeg
from ssltool.data.color import managed_array, to_rgb
from ssltool.data.integrity import check_complete
from ssltool.data.samples import check_stored, read_samples
from ssltool.errors import UnreadableImage

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

ImagePath = str | os.PathLike[str] | BinaryIO

DECODE_VERSION = 3
"""Version of the rules above; raised whenever they give other pixels."""
MIN_SIDE = 8
MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs.

Measured at 64 px for such an image, beside what the process has: 1.2 GB for PNG, TIFF and PPM in
RGB, 1.4 to 1.5 GB for gray, a palette and 16 bits, 2.2 GB with opacity, 2.7 GB for WebP. A JPEG is
decoded at a reduced scale and takes 0.1 GB, or 0.5 GB if it is progressive.
"""

LONGEST = 16
"""Times the shorter side: what of an image `square` looks at."""
_BAND = 2**20  # pixels that are copied at a time
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


def decode_identity() -> str:
    """All that determines the pixels of a file beside the file: for cache keys.

    Returns:
        Version of the rules, and versions of the libraries that decode, convert and resize.
    """
    libraries = {"Pillow": PIL.__version__, "torch": torch.__version__}
    libraries["simplejpeg"] = getattr(simplejpeg, "__version__", "none")
    libraries |= _installed("pillow-heif", "tifffile", "imagecodecs", "pydicom", "torchcodec")
    for name in ("libjpeg_turbo", "jpg_2000", "libtiff", "webp", "avif", "zlib", "littlecms2"):
        libraries[name] = str(features.version(name) or "none")
    versions = (f"{name} {version}" for name, version in libraries.items())
    return "; ".join((f"decode rules {DECODE_VERSION}", *versions))


def _installed(*names: str) -> dict[str, str]:
    """Versions of the packages that are installed, without importing them."""
    versions: dict[str, str] = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


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


def _pixels(file: ImagePath, short_side: int | None) -> NDArray[np.uint8]:
    """As `decode`, but uint8 ``[H, W, 3]``."""
    pixels, orientation = _fast_jpeg(file, short_side) or _pillow(file, short_side)
    return upright(pixels, orientation)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn pixels ``[H, W, C]`` of any type as their EXIF orientation says; 1 leaves them."""
    if orientation not in _UPRIGHT:
        return pixels
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def _pillow(file: ImagePath, short_side: int | None) -> tuple[NDArray[np.uint8], int]:
    """Pixels ``[H, W, 3]`` as stored, and EXIF orientation, by Pillow."""
    with _open(file) as image:
        samples = read_samples(image)
        _load_complete(file, image, reduction(image.size, short_side))
        pixels = _array(to_rgb(image, samples))
        # After loading: PNG may store EXIF after the pixels, and TIFF is turned and loses its tag.
        return pixels, _orientation(image)


def stored_values(file: ImagePath) -> NDArray[Any]:
    """Values of an image that Pillow opens, without conversion, upright: see
    `ssltool.data.values`.

    Returns:
        ``[H, W, C]``: uint8, of gray also uint16 or float32.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    with _open(file) as image:
        check_stored(image)
        _load_complete(file, image, 1)
        is_wide_pgm = image.format == "PPM" and image.mode == "I"
        if image.mode not in _STORED_MODES and not is_wide_pgm:
            raise UnreadableImage(f"colors of mode {image.mode}; expected channels of values")
        values = np.asarray(image).reshape(image.height, image.width, -1)
        return upright(values.astype(np.uint16) if is_wide_pgm else values, _orientation(image))


def _load_complete(file: ImagePath, image: Image.Image, scale: int) -> None:
    """Decode an opened image; refuse one that is not complete."""
    with opened_stream(file) as stream:
        check_complete(image, stream)
    _load(image, scale)
    if image.format in ("JPEG", "MPO"):
        _check_jpeg(file, image, scale)


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


def _load(image: Image.Image, scale: int) -> None:
    image.draft(None, (image.size[0] // scale, image.size[1] // scale))
    image.load()


def _check_jpeg(file: ImagePath, image: Image.Image, scale: int) -> None:
    """Refuse a loaded JPEG image if libjpeg has made up a part of it.

    Raises:
        UnreadableImage: Data is missing, or zeros are in its place.
    """
    data = _jpeg_bytes(file) or b""
    end = jpeg.end_of_image(data)

    def is_same(other: bytes) -> bool:
        try:
            with Image.open(io.BytesIO(other), formats=["JPEG"]) as altered:
                _load(altered, scale)
                return altered.mode == image.mode and altered.tobytes() == image.tobytes()
        except _CORRUPT:
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


def reduction(size: tuple[int, int], short_side: int | None) -> int:
    """By how much the scale of a decoded JPEG is reduced: the largest of 8, 4, 2, 1 that leaves
    the shorter side at least this long.
    """
    if short_side is None:
        return 1
    return next((scale for scale in (8, 4, 2) if min(size) // scale >= short_side), 1)


def _fast_jpeg(file: ImagePath, short_side: int | None) -> tuple[NDArray[np.uint8], int] | None:
    """As `_pillow` for a gray or color JPEG, by simplejpeg; None if it does not apply."""
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
    with _open(io.BytesIO(data)) as image:
        return pixels, _orientation(image)


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
        with _open(io.BytesIO(data)) as image:
            upright = not header.exif or _orientation(image) == 1
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


def _shortened(pixels: NDArray[Any]) -> NDArray[Any]:
    """The middle of images of extreme shapes, which would take much memory when enlarged."""
    height, width = pixels.shape[:2]
    longest = LONGEST * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]


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


def fitted(image: Image.Image, short_side: int) -> Image.Image:
    """Resize the shorter side to ``short_side`` px, keeping the aspect; never enlarge."""
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def dimensions(file: ImagePath) -> tuple[int, int]:
    """Width and height in pixels as stored, before EXIF orientation, from the header alone.

    Raises:
        UnreadableImage: The header cannot be read, or gives a size that is refused.
    """
    with _open(file) as image:
        return image.size


@contextmanager
def _open(file: ImagePath) -> Iterator[Image.Image]:
    """Open an image; errors of Pillow, also in the body, become ``UnreadableImage``."""
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
    except _CORRUPT as error:
        raise UnreadableImage(_reason(error, file)) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated_allowed


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


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image; 1 without one, or if the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _CORRUPT:
        return 1
    return value if isinstance(value, int) else 1
