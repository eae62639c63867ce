"""Read the values of an image file as they are stored: any number of channels, any type.

TIFF (tifffile, the extra ``tiff``), NumPy arrays, DICOM (pydicom, the extra ``dicom``), and what
Pillow opens without conversion. Values are ``[H, W, C]`` of the file's own type. Rules:

- TIFF: planar or contiguous, one image of C samples or C pages of one sample. Levels of a pyramid
  are left out. Refused: palettes, and stacks in depth or time.
- NumPy: ``.npy`` of ``[H, W]`` or ``[H, W, C]``, numbers without objects.
- DICOM: one frame. The rescale slope and intercept, or a modality LUT, are applied, and the result
  is float32. MONOCHROME1 is inverted, so that large values are bright. A window is a range of
  values: see `ssltool.data.channels`.
- Others: gray and color in 8 bits, gray in 16 bits, float. Refused: palettes, CMYK, color in more
  than 8 bits of PNG, PPM and JPEG 2000, of which Pillow keeps 8, and other maxima of PGM and PPM
  than 255 and 65535, which it scales. Opacity is a channel like any other. AVIF and HEIC are read
  in 8 bits.
- The orientation of EXIF and TIFF is applied.

A file that is cut off, or holds no number such as a type of text, is refused, never read in part.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ssltool.arrays import parse_array
from ssltool.data.decode import stored_values, upright
from ssltool.data.opening import MAX_PIXELS, ImagePath, check_size, opened_stream
from ssltool.documents import DocumentError
from ssltool.errors import UnreadableImage
from ssltool.options import LARGEST_CHANNELS

Values = NDArray[Any]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NUMPY = b"\x93NUMPY"
_DICOM_AT = 128  # bytes before the signature
_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
_MAX_VALUES = 4 * MAX_PIXELS  # of all channels


def read_values(file: ImagePath) -> Values:
    """Read the values of an image.

    Args:
        file: Path or binary stream.

    Returns:
        ``[H, W, C]``, uint8 to int32 or float, in the byte order of this machine.

    Raises:
        UnreadableImage: With a short reason that does not repeat the path.
    """
    with opened_stream(file) as stream:
        stream.seek(0)
        head = stream.read(_DICOM_AT + 4)
        stream.seek(0)
        if head[:4] in _TIFF:
            values = _third_party(_tiff, stream)
        elif head.startswith(_NUMPY):
            values = _numpy(stream)
        elif head[_DICOM_AT:] == b"DICM":
            values = _third_party(_dicom, stream)
        else:
            return _checked(stored_values(file))
    return _checked(values)


def _checked(values: Values) -> Values:
    """Values of a supported type, native and contiguous.

    Raises:
        UnreadableImage: They are of another type, or of a size that is refused.
    """
    if values.dtype.str[1:] not in _TYPES:
        raise UnreadableImage(f"values of type {values.dtype}; expected numbers of up to 32 bits")
    _check_shape(values.shape)
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuse ``[H, W, C]`` that is too small or too large, before its values are read."""
    height, width, channels = shape
    check_size(width, height)
    if not 1 <= channels <= LARGEST_CHANNELS:
        raise UnreadableImage(f"{channels} channels; expected 1 to {LARGEST_CHANNELS}")
    if math.prod(shape) > _MAX_VALUES:
        raise UnreadableImage(f"more than {_MAX_VALUES / 1e6:.0f} million values")


def _third_party(read: Callable[[BinaryIO], Values], stream: BinaryIO) -> Values:
    """Call a reader whose library raises errors of many classes on damaged files."""
    try:
        return read(stream)
    except UnreadableImage:
        raise
    except ImportError as error:
        raise UnreadableImage(_missing(error)) from error
    except MemoryError as error:
        raise UnreadableImage("needs more memory than there is") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"corrupt or truncated ({text[:80]})") from error


def _missing(error: ImportError) -> str:
    """What to install for a module that is not there."""
    extra = {"tifffile": "tiff", "imagecodecs": "tiff", "pydicom": "dicom"}.get(error.name or "")
    if extra is None:
        return f"its compression cannot be decoded here ({' '.join(str(error).split())[:80]})"
    return f"needs {error.name}; type pip install 'ssltool[{extra}]'"


def _tiff(stream: BinaryIO) -> Values:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors are raised here
    with tifffile.TiffFile(stream) as file:
        series = file.series[0]
        page = series.keyframe
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise UnreadableImage("a palette; expected channels of values")
        axes = _axes(series.axes, series.shape)
        shape = dict(zip(series.axes, series.shape, strict=True))
        _check_shape((shape["Y"], shape["X"], shape.get(axes, 1)))
        _check_segments(series.pages, stream)
        values = np.asarray(series.asarray())
        order = [series.axes.index(axis) for axis in ("Y", "X", axes) if axis]
        rest = [at for at in range(values.ndim) if at not in order]
        values = values.transpose(*order, *rest).reshape(shape["Y"], shape["X"], -1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
            values = (1 << page.bitspersample) - 1 - values
        tag = page.tags.get("Orientation")
        return upright(values, tag.value if tag is not None else 1)


def _axes(axes: str, shape: tuple[int, ...]) -> str:
    """The axis that holds the channels, empty for none.

    Raises:
        UnreadableImage: There is another axis, such as depth.
    """
    long = [axis for axis, size in zip(axes, shape, strict=True) if axis not in "YX" and size > 1]
    if len(long) > 1 or "Y" not in axes or "X" not in axes or any(a in "ZT" for a in long):
        lengths = " x ".join(f"{size} {axis}" for axis, size in zip(axes, shape, strict=True))
        raise UnreadableImage(f"axes {lengths}; expected one image of some channels")
    return long[0] if long else ""


def _check_segments(pages: Any, stream: BinaryIO) -> None:
    """Refuse a file whose strips or tiles are missing, which tifffile fills with zeros."""
    end = stream.seek(0, 2)
    for page in pages:
        offsets, sizes = page.dataoffsets, page.databytecounts
        pairs = list(zip(offsets, sizes, strict=True))
        if not pairs or any(size == 0 or start + size > end for start, size in pairs):
            raise UnreadableImage("image file is truncated (strips or tiles are missing)")


def _numpy(stream: BinaryIO) -> Values:
    try:
        values = parse_array(stream.read())
    except DocumentError as error:
        raise UnreadableImage(str(error)) from error
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise UnreadableImage(f"an array of {list(values.shape)}; expected [H, W] or [H, W, C]")
    return values


def _dicom(stream: BinaryIO) -> Values:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    file = pydicom.dcmread(stream)
    if "Rows" not in file or "Columns" not in file:
        raise UnreadableImage("a DICOM file without an image")
    frames = int(file.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise UnreadableImage(f"{frames} frames; expected one, save each as a file")
    samples = int(file.get("SamplesPerPixel", 1))
    _check_shape((int(file.Rows), int(file.Columns), samples))
    color = str(file.get("PhotometricInterpretation", ""))
    if color not in ("MONOCHROME1", "MONOCHROME2", "RGB"):
        raise UnreadableImage(f"{color or 'no photometric interpretation'}; expected gray or RGB")
    stored = pixel_array(file)
    if color == "MONOCHROME1":
        stored = _inverted(stored, int(file.BitsStored), signed=bool(file.PixelRepresentation))
    values = np.asarray(apply_modality_lut(stored, file), np.float32)
    return values.reshape(*values.shape[:2], samples)


def _inverted(stored: Values, bits: int, *, signed: bool) -> Values:
    """Stored values from the other end of what so many bits hold."""
    ends = -1 if signed else (1 << bits) - 1  # least and greatest together
    return (ends - stored.astype(np.int64)).astype(np.int32 if signed else stored.dtype)
