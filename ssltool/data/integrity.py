"""Whether image files are complete, where decoders fill up what is missing without a word.

Zeros are what a file ends in whose space was reserved and never written: an interrupted download,
a full disk. Each format is checked by what it offers: checksums, lengths, or that its coding does
not produce long runs of zeros.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

from ssltool.errors import UnreadableImage

_ZEROS = 16
"""Bytes; the coding of WebP, AVIF and compressed TIFF ends in fewer zeros."""
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_VALUE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PNG = b"\x89PNG\r\n\x1a\n"


def check_complete(image: Image.Image, file: BinaryIO) -> None:
    """Refuse an opened image whose file is cut or filled with zeros.

    JPEG is checked in `ssltool.data.jpeg`. GIF and JPEG 2000 are left to their decoders, which
    notice. Uncompressed formats cannot be checked for zeros: zeros are black.

    Args:
        image: As opened by Pillow.
        file: Its file; the position is moved.

    Raises:
        UnreadableImage: The file is damaged.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, file)
    elif image.format in _CHECKS:
        file.seek(0)
        _CHECKS[image.format](file.read())


def _truncated(what: str) -> UnreadableImage:
    return UnreadableImage(f"image file is truncated or damaged ({what})")


def _check_png(data: bytes) -> None:
    """Every chunk has its checksum; Pillow does not compare those of the pixels."""
    offset, view = len(_PNG), memoryview(data)
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[offset + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _truncated("wrong checksum")
        if kind == b"IEND":
            return
        offset = end + 4
    raise _truncated("no end")


def _check_ico(data: bytes) -> None:
    """Icons are PNG files, or uncompressed."""
    for entry in range(int.from_bytes(data[4:6], "little")):
        size, offset = struct.unpack_from("<II", data, 6 + 16 * entry + 8)
        if data.startswith(_PNG, offset):
            _check_png(data[offset : offset + size])


def _check_webp(data: bytes) -> None:
    """Chunks fill the file, and the pixels do not end in zeros.

    Flat areas of lossy files may: libwebp spends a quarter of a bit on a flat block.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    offset = 12
    while offset + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, offset)
        last = offset + 8 + length
        if last > len(data) or not kind.isascii() or not kind.strip(b"\0"):
            raise _truncated("a chunk is cut")
        allowed = _ZEROS
        if kind == b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, offset + 14))
            allowed += -(-width // 16) * -(-height // 16) // 16
        if kind in (b"VP8 ", b"VP8L", b"ALPH") and _ends_in_zeros(data, offset + 8, last, allowed):
            raise _truncated("filled with zeros")
        offset = last + length % 2


def _check_avif(data: bytes) -> None:
    """Of AVIF and HEIC: the boxes with pixels are complete and do not end in zeros."""
    offset = 0
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        if length == 1 and offset + 16 <= len(data):
            length = int.from_bytes(data[offset + 8 : offset + 16], "big")
        end = len(data) if length == 0 else offset + length
        if length != 0 and length < 8:
            return  # no box: the decoder judges
        if kind == b"mdat" and (end > len(data) or _ends_in_zeros(data, offset + 8, end, _ZEROS)):
            raise _truncated("pixels are missing")
        offset = end


def _ends_in_zeros(data: bytes, start: int, end: int, allowed: int) -> bool:
    """Whether ``data[start:end]`` ends in more zeros than allowed, or is nothing else."""
    count = min(end - start, allowed + 1)
    return count > 0 and data.endswith(bytes(count), start, end)


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "PNG": _check_png,
    "ICO": _check_ico,
    "WEBP": _check_webp,
    "AVIF": _check_avif,
    "HEIF": _check_avif,
}


def _check_tiff(image: TiffImagePlugin.TiffImageFile, file: BinaryIO) -> None:
    """Directory, values and pixels are inside the file and do not reach into zeros at its end.

    Uncompressed pixels may: zeros are black.
    """
    tags = image.tag_v2
    is_tiled = _TILE_OFFSETS in tags
    offsets = tags.get(_TILE_OFFSETS if is_tiled else _STRIP_OFFSETS, ())
    sizes = tags.get(_TILE_SIZES if is_tiled else _STRIP_SIZES, ())
    pixel_ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)]
    length, zeros = _zeros_at_end(file)
    if any(end > length for end in pixel_ends):
        raise _truncated("pixels are missing")
    ends = _directory_ends(file, tags.offset)
    if image.info.get("compression") != "raw":
        ends += pixel_ends
    if max(ends) > zeros + _ZEROS:
        raise _truncated("filled with zeros")


def _zeros_at_end(file: BinaryIO) -> tuple[int, int]:
    """Length of a file, and where the zeros at its end begin, at most a mebibyte before it."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 2**20))
    tail = file.read()
    return length, length - (len(tail) - len(tail.rstrip(b"\0")))


def _directory_ends(file: BinaryIO, offset: int) -> list[int]:
    """Ends of a TIFF directory and of the values outside of it."""
    file.seek(0)
    head = file.read(4)
    order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:]  # BigTIFF
    count_format, entry_format = ("Q", "HHQQ") if big else ("H", "HHII")
    file.seek(offset)
    size = struct.calcsize(order + count_format)
    (count,) = struct.unpack(order + count_format, file.read(size))
    entry_size = struct.calcsize(order + entry_format)
    table = file.read(count * entry_size)
    ends = [offset + size + len(table) + (8 if big else 4)]  # with the offset of the next one
    for _, kind, number, value in struct.iter_unpack(order + entry_format, table):
        length = number * _VALUE_SIZES.get(kind, 1)
        if length > (8 if big else 4):
            ends.append(value + length)
    return ends
