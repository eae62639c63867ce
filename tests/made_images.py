"""Files that Pillow cannot write: TIFF of any tags, and color profiles."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def tiff(
    values: NDArray[np.generic],
    photometric: int,
    bits: int | None = None,
    order: str = "<",
    planes: bool = False,
    deflate: bool = False,
    differences: bool = False,
    tags: Mapping[int, Sequence[float]] | None = None,
) -> bytes:
    """A TIFF file of values ``[H, W, S]``.

    Args:
        values: Of the type of the samples; of any other ``bits``, unsigned.
        photometric: 0 = white is zero, 1 = black is zero, 2 = RGB, 3 = palette.
        bits: Of a sample; None: those of the type.
        order: ``<`` or ``>``.
        planes: Each sample has a plane of its own.
        deflate: Compressed.
        differences: Neighbors are subtracted (predictor 2).
        tags: Further tags: SHORT, or FLOAT if any value is a float.
    """
    height, width, samples = values.shape
    bits = bits or values.dtype.itemsize * 8
    parts = [values[..., i : i + 1] for i in range(samples)] if planes else [values]
    strips = [_packed(part, bits, order, differences) for part in parts]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    entries: dict[int, tuple[str, Sequence[float]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * samples),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        273: ("I", [0] * len(strips)),
        277: ("H", [samples]),
        278: ("I", [height]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if planes else 1]),
    }
    if differences:
        entries[317] = ("H", [2])
    for tag, content in (tags or {}).items():
        entries[tag] = ("f" if any(isinstance(x, float) for x in content) else "H", content)
    sizes = {tag: struct.calcsize(kind) * len(content) for tag, (kind, content) in entries.items()}
    values_at = 10 + 12 * len(entries) + 4
    pixels_at = values_at + sum(size for size in sizes.values() if size > 4)
    offsets = np.cumsum([pixels_at, *map(len, strips)])[:-1].tolist()
    entries[273] = ("I", offsets)
    table = outside = b""
    for tag in sorted(entries):
        kind, content = entries[tag]
        raw = struct.pack(f"{order}{len(content)}{kind}", *content)
        code = {"H": 3, "I": 4, "f": 11}[kind]
        table += struct.pack(f"{order}HHI", tag, code, len(content))
        if len(raw) <= 4:
            table += raw.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", values_at + len(outside))
            outside += raw
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + table + bytes(4) + outside + b"".join(strips)


def _packed(values: NDArray[np.generic], bits: int, order: str, differences: bool) -> bytes:
    if bits == values.dtype.itemsize * 8:
        if differences:
            values = values.copy()
            values[:, 1:] -= values[:, :-1].copy()
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    rows = values.reshape(len(values), -1, 1).astype(np.int64)
    digits = (rows >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(bool), axis=1).tobytes()


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_number, values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


_WHITE = (0.9642, 1.0, 0.8249)
_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def _profile(space: bytes, kind: bytes, connection: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    description = (b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0").ljust(96, b"\0")
    tags = {b"desc": description, b"wtpt": _xyz(*_WHITE), b"cprt": b"text\0\0\0\0x\0\0\0", **tags}
    table = body = b""
    start = 132 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I", start + len(body)) + b"\0\0\0\0\x02\x40\0\0" + kind + space
    head += connection + bytes(12) + b"acsp" + bytes(28) + b"".join(map(_number, _WHITE))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(order: Sequence[int] = (0, 1, 2), gamma: float = 2.2) -> bytes:
    """A profile with the primaries of sRGB in another order: (2, 1, 0) exchanges red and blue."""
    tags = {b"rgb"[i : i + 1] + b"XYZ": _xyz(*_PRIMARIES[order[i]]) for i in range(3)}
    tags |= {name + b"TRC": _gamma(gamma) for name in (b"r", b"g", b"b")}
    return _profile(b"RGB ", b"mntr", b"XYZ ", tags)


def gray_profile(gamma: float) -> bytes:
    """A gray profile."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A profile in which only black ink makes dark, linear in L*, and all colors are gray."""
    identity = b"".join(map(_number, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    ramp = bytes(range(256))
    lightness = [255, 0] * 8  # of all corners of CMYK; black changes fastest
    grid = b"".join(bytes([value, 128, 128]) for value in lightness)
    table = b"mft1\0\0\0\0\x04\x03\x02\0" + identity + ramp * 4 + grid + ramp * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": table})
