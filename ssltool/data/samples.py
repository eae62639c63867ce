"""What image files say of their samples: bits, range, opacity; and the tags of TIFF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from ssltool.errors import UnreadableImage

Alpha = Literal["opacity", "doubtful", "other"]

_BITS, _PHOTOMETRIC, _FILL_ORDER, _BANDS, _PLANAR = 258, 262, 266, 277, 284
_MAX_VALUE, _COLORMAP, _EXTRA, _FORMAT, _MAX_FLOAT, _SUBSAMPLING = 281, 320, 338, 339, 341, 530
_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_SIGNED, _SEPARATE = 2, 2
_COLORS = {_RGB: 3, _CMYK: 4, _YCBCR: 3, 8: 3}
_SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream and of its sizes
_HEADERS = 2**16  # bytes in which it is
_GEOGRAPHIC = (33550, 33922, 34264, 34735, 42112, 42113)
"""Tags of GeoTIFF and GDAL: the samples are bands of a sensor."""


@dataclass(frozen=True)
class Samples:
    """What a file says of its samples beyond Pillow's mode.

    Attributes:
        bits: Significant bits of an integer sample; white is ``2**bits - 1``.
        declared: The file states ``bits``, other than as the size of its samples in bytes.
        white: Value of white in a float image.
        unsigned: Of mode ``"I"``: the 32 bits are an unsigned integer.
        inverted: 0 is white.
        alpha: Whether a fourth (or second) sample is opacity. ``"doubtful"``: only if most of its
            pixels are fully opaque or fully transparent; otherwise the image is refused.
    """

    bits: int = 8
    declared: bool = False
    white: float = 1.0
    unsigned: bool = False
    inverted: bool = False
    alpha: Alpha = "opacity"

    @classmethod
    def of_mode(cls, mode: str) -> Samples:
        """Those of an image in memory, of which only the mode is known."""
        return cls(bits={"I": 31}.get(mode, 16 if mode.startswith("I;16") else 8))


def read_samples(image: Image.Image) -> Samples:
    """What the file of an opened image says of its samples.

    Args:
        image: As opened by Pillow, and not loaded yet; how it will be loaded is corrected.

    Raises:
        UnreadableImage: Pillow would load other values than the file has.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _read_tiff(image)
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    parameters = tiles[0].args if tiles else None
    if image.format == "PNG" and isinstance(parameters, str) and "16" in parameters:
        return Samples(bits=16)
    if image.format == "PPM" and image.mode != "F":
        white = parameters[1] if isinstance(parameters, tuple) else 255
        is_wide = image.mode == "I" or white == 65535
        return Samples(bits=16, declared=white not in (255, 65535)) if is_wide else Samples()
    return Samples.of_mode(image.mode)


def check_stored(image: Image.Image) -> None:
    """Refuse an opened image, not loaded yet, of which Pillow would load other values than stored.

    Raises:
        UnreadableImage: Color of more than 8 bits, or PGM and PPM whose maximum Pillow scales.
    """
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    parameters = tiles[0].args if tiles else None
    if image.format == "PPM" and isinstance(parameters, tuple) and image.mode != "F":
        white = parameters[1]
        if white != (65535 if image.mode == "I" else 255):
            raise UnreadableImage(
                f"a maximum of {white}; expected 255, or 65535 of gray: save it as TIFF or NumPy"
            )
    is_wide = ";16" in str(parameters)
    if image.format == "JPEG2000" and isinstance(image, ImageFile.ImageFile):
        is_wide = _jpeg2000_bits(image) > 8
    if is_wide and len(image.getbands()) > 1:
        raise UnreadableImage("color in 16 bits, which is read of TIFF and NumPy files only")


def _jpeg2000_bits(image: ImageFile.ImageFile) -> int:
    """Bits of the widest component, from the SIZ marker of its codestream."""
    stream = image.fp
    assert stream is not None
    place = stream.tell()
    stream.seek(0)
    _, _, siz = stream.read(_HEADERS).partition(_SIZ)
    stream.seek(place)
    return max((byte % 128 + 1 for byte in siz[38 : 38 + 3 * len(image.getbands()) : 3]), default=8)


def _read_tiff(image: TiffImagePlugin.TiffImageFile) -> Samples:
    """As `read_samples`, from the tags of TIFF."""
    tags = image.tag_v2
    photometric = tags.get(_PHOTOMETRIC)
    if photometric is None:
        raise UnreadableImage("a TIFF file without photometric interpretation")
    bits = max(_numbers(tags.get(_BITS, 1)))
    is_signed = _SIGNED in _numbers(tags.get(_FORMAT, 1))
    if bits == 8 and is_signed:
        raise UnreadableImage("signed samples of 8 bits")
    _correct_loading(image, photometric, bits)
    whites = [value for value in _numbers(tags.get(_MAX_VALUE, 0)) if _is_full_scale(value)]
    if image.mode == "F":
        floats = _numbers(tags.get(_MAX_FLOAT, 1))
        white = max(floats) if _is_full_scale(max(floats)) else 1.0
        return Samples(white=white, inverted=photometric == _WHITE_IS_ZERO)
    declared = int(max(whites)).bit_length() if whites else 0
    is_declared = bits > 8 and (bits % 8 > 0 or 8 <= declared < bits)
    if bits > 8 and 8 <= declared < bits:
        bits = declared
    return Samples(
        bits=max(8, bits - is_signed * (not is_declared)),
        declared=is_declared,
        unsigned=image.mode == "I" and not is_signed,
        inverted=photometric == _WHITE_IS_ZERO and image.mode.startswith("I"),
        alpha=_alpha(image, photometric),
    )


def _correct_loading(image: TiffImagePlugin.TiffImageFile, photometric: int, bits: int) -> None:
    """Correct how Pillow would load subsampled colors, separate planes and colormaps of 8 bits.

    Raises:
        UnreadableImage: It cannot be corrected.
    """
    tags = image.tag_v2
    is_raw = image.info.get("compression") == "raw"
    if photometric == _YCBCR and is_raw and _numbers(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1):
        raise UnreadableImage("uncompressed YCbCr with subsampling")
    if tags.get(_PLANAR, 1) == _SEPARATE and is_raw:
        _correct_planes(image, bits)
    elif tags.get(_PLANAR, 1) == _SEPARATE and image.mode == "RGBA" and _EXTRA not in tags:
        raise UnreadableImage("compressed planes, of which one has no ExtraSamples")
    if photometric == _PALETTE and max(colormap := _numbers(tags.get(_COLORMAP, 0))) < 256:
        # Written in 8 bits instead of 16 by old software.
        image.palette = ImagePalette.raw("RGB;L", bytes(colormap))


def _alpha(image: TiffImagePlugin.TiffImageFile, photometric: int) -> Alpha:
    """Whether the sample after the colors is opacity, see `Samples`."""
    tags = image.tag_v2
    extra = _numbers(tags.get(_EXTRA, ()))
    count = tags.get(_BANDS, 1) - _COLORS.get(photometric, 1)
    if count == 1 and any(extra) and not any(tag in tags for tag in _GEOGRAPHIC):
        return "doubtful"
    if 1 in extra and image.mode in ("RGBA", "LA", "La"):  # Pillow divides the colors by it
        raise UnreadableImage("colors multiplied by a sample that may not be opacity")
    return "other"


def _correct_planes(image: TiffImagePlugin.TiffImageFile, bits: int) -> None:
    """Correct how Pillow would load separate planes: it reads all as one byte per sample."""
    tags = image.tag_v2
    order = "L" if tags.prefix == b"II" else "B"
    tiles = []
    for tile in image.tile:
        raw_mode, *others = _numbers(tile.args)
        if tags.get(_BANDS, 1) == 1:
            fill, sample = tags.get(_FILL_ORDER, 1), _numbers(tags.get(_FORMAT, 1))
            key = (tags.prefix, tags[_PHOTOMETRIC], sample, fill, (bits,), ())
            raw_mode = TiffImagePlugin.OPEN_INFO[key][1]
        elif bits == 16 and image.mode == "RGB" and raw_mode in ("R", "G", "B"):
            raw_mode = f"{raw_mode};16{order}"
        elif bits != 8:
            raise UnreadableImage(f"separate planes of {bits} bits that are not R, G, B")
        tiles.append(tile._replace(args=(raw_mode, *others)))
    image.tile = tiles


def _is_full_scale(value: float) -> bool:
    """Whether it is 1, or ``2**n - 1`` of at least 8 bits: a scale, not the maximum of an image."""
    whole = int(value)
    return value == 1 or (value == whole and whole >= 255 and whole & (whole + 1) == 0)


def _numbers(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
