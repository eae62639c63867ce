"""Structure of JPEG files: header, color profile, and whether all coefficients are there.

libjpeg replaces missing data by gray and only warns, and Pillow hides its warnings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.errors import UnreadableImage

_EXIF_OR_XMP, _ICC = 0xE1, 0xE2
_START_OF_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6))
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
"""Of a segment: neither a stuffed byte, nor padding, nor a restart inside a scan."""
_NOISE = bytes.fromhex("abdb7ef7b7eedd5dfbbed5ab") * 8
"""Long codes, so rare and large coefficients; without 0xff."""
_ICC_TAG = b"ICC_PROFILE\0"
_ZEROS = 4
"""Bytes at the end of a scan: if they are blocks, then more than one (at least 2 bits for each of
at most 10)."""


@dataclass(frozen=True)
class Header:
    """What the segments before the pixels say.

    Attributes:
        exif: There is an APP1 segment (EXIF or XMP), or the segments are malformed.
        profile: The ICC profile; None without one.
        one_scan: The first scan holds all coefficients: nothing but its end can be missing.
    """

    exif: bool
    profile: bytes | None
    one_scan: bool


def read_header(data: bytes) -> Header:
    """Read the segments before the first scan."""
    exif, icc, frame, components = False, list[bytes](), 0, 0
    offset = 2
    while data[offset : offset + 1] == b"\xff":
        marker = data[offset + 1] if offset + 1 < len(data) else 0
        if marker == 0xFF:  # padding
            offset += 1
            continue
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        body = offset + 4
        if marker == _START_OF_SCAN:
            one_scan = frame in (0xC0, 0xC1) and data[body : body + 1] == bytes([components])
            return Header(exif, _profile(icc), one_scan)
        if marker == _EXIF_OR_XMP:
            exif = True
        elif marker == _ICC and data.startswith(_ICC_TAG, body):
            icc.append(data[body + len(_ICC_TAG) : offset + 2 + length])
        elif marker in _FRAMES:
            frame, components = marker, (data[body + 5 : body + 6] or b"\0")[0]
        offset += 2 + length
    return Header(True, _profile(icc), False)


def _profile(parts: list[bytes]) -> bytes | None:
    """A profile from its numbered parts; None if not all are there, as Pillow counts them."""
    parts = sorted(part for part in parts if len(part) >= 2)
    if not parts or parts[0][1] != len(parts):
        return None
    return b"".join(part[2:] for part in parts)


def end_of_image(data: bytes) -> int:
    """Offset of the end marker of a complete file; more bytes may follow it.

    Raises:
        UnreadableImage: There is no end marker, scans are missing, or the coding is arithmetic.
    """
    frame, missing = 0, dict[int, list[int]]()
    for marker, offset, body in _segments(data):
        if marker == _END:
            if not missing or any(map(any, missing.values())):
                raise UnreadableImage("image file is truncated (scans are missing)")
            return offset
        if marker in _ARITHMETIC:
            raise UnreadableImage("a JPEG file with arithmetic coding")
        if marker in _FRAMES and len(body) >= 6:
            frame = marker
            missing = {body[i]: [1] * 64 for i in range(6, len(body) - 2, 3)}
        elif marker == _START_OF_SCAN and body:
            _take_scan(body, missing, frame in _PROGRESSIVE)
    raise UnreadableImage("image file is truncated (no end marker)")


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, offset and content of each segment, up to the end marker."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker in (_END, 0xD8):
            yield marker, found.start(), b""
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        yield marker, found.start(), data[position + 2 : position + length]
        position += length


def _take_scan(body: bytes, missing: dict[int, list[int]], progressive: bool) -> None:
    """Mark the coefficients of a scan; of a progressive one, its last bit if it has that."""
    count = body[0]
    first, last, low_bit = (0, 63, 0)
    if progressive and len(body) >= 4 + 2 * count:
        first, last = body[1 + 2 * count], min(63, body[2 + 2 * count])
        low_bit = body[3 + 2 * count] & 15
    for component in body[1 : 1 + 2 * count : 2]:
        if component in missing and low_bit == 0:
            missing[component][first : last + 1] = [0] * (last + 1 - first)


def continued(data: bytes, end: int) -> bytes:
    """The image with other data before its end: decoded alike exactly if no data is missing.

    A decoder ignores what follows the last block, and reads it where blocks are missing. The next
    restart marker lets it through also where whole restart intervals are missing.
    """
    restarts = [data.rfind(bytes([0xFF, 0xD0 + i]), 0, end) for i in range(8)]
    last = max(range(8), key=restarts.__getitem__) if max(restarts) >= 0 else 7
    restart = bytes([0xFF, 0xD0 + (last + 1) % 8])
    return _bare(data, end).rstrip(b"\xff") + _NOISE + restart + _NOISE + b"\xff\xd9"


def without_zeros(data: bytes, end: int) -> tuple[bytes, bytes] | None:
    """The image without some of the zeros that end its last scan, and with other data in place.

    Zeros in place of missing blocks: the decoder can do without some, but not with other data. Flat
    areas are coded as zeros too, and then it needs them all; padding may be anything.

    Returns:
        None if it ends in hardly any zeros.
    """
    if not data.endswith(bytes(_ZEROS), 0, end):
        return None
    zeros = len(data[:end].rstrip(b"\0"))
    return _bare(data, end - _ZEROS) + b"\xff\xd9", continued(data, zeros)


def _bare(data: bytes, end: int) -> bytes:
    """The image up to ``end`` without EXIF, profile and the list of further images (APP1, APP2)."""
    parts, start = list[bytes](), 0
    for marker, offset, body in _segments(data):
        if marker in (_START_OF_SCAN, _END):
            break
        if marker in (_EXIF_OR_XMP, _ICC):
            parts.append(data[start:offset])
            start = offset + 4 + len(body)
    return b"".join((*parts, data[start:end]))
