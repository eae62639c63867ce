"""Random damage of bytes, JSON, safetensors, NumPy and tar files, for `fuzz.py`."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

WRONG: list[Any] = [
    None, True, -1, 0, 1, 3.5, 2**31, 2**63, -(2**63), 10**30, float("inf"), float("nan"), 1e300,
    1e-320, "", "a\0b", "\ud800", "x" * 100_000, "\n", "../../x", [], {}, [[]], [1e-300] * 5,
    {"a": [None]},
]  # fmt: skip
WRONG_TEXT = ["1" * 5000, "1e400", "[" * 5000 + "]" * 5000, "NaN", "-Infinity", "tru", "\ufeff"]


def damage_bytes(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Flip, overwrite, cut, remove, repeat or splice, one to three times."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        size = len(data)
        # Half of the places are in the header, where the structure is.
        at = rng.randrange(max(1, min(size, 200) if rng.random() < 0.5 else size))
        length = rng.choice([1, 2, 4, 8, 64, 512, max(1, size // 3)])
        kind = rng.randrange(7)
        if kind == 0:
            for place in range(at, min(size, at + length), 7):
                data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            word = rng.choice([b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 8])
            data[at : at + len(word)] = word
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * rng.choice([1, 2, 20])
        elif kind == 5:
            data[at : at + length] = rng.randbytes(min(length, 64))
        else:
            data[at:] = rng.choice(others)[at:]
    return bytes(data)


def damage_value(document: Any, rng: random.Random) -> Any:
    """A document with one value replaced, removed, repeated or added."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    document = json.loads(json.dumps(document))
    if not isinstance(document, dict | list) or rng.random() < 0.03:
        return rng.choice(WRONG)
    walk(document)
    if not places:
        return rng.choice(WRONG)
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.6:
        node[key] = rng.choice(WRONG)
    elif action < 0.75 and isinstance(node[key], int | float):
        node[key] = node[key] * rng.choice([-1, 0, 2, 1000, 10**9]) + rng.choice([0, 1])
    elif action < 0.9:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(["", "new", "a\nb", "x" * 10_000])] = node[key]
    else:
        node.append(node[key])
    return document


def damage_json(content: bytes, rng: random.Random) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content[: len(content) // 2]
    text = json.dumps(damage_value(document, rng))
    if rng.random() < 0.15:  # what json.dumps does not write
        at = [i for i, c in enumerate(text) if c in ":[,"] or [0]
        place = rng.choice(at) + 1
        text = text[:place] + rng.choice(WRONG_TEXT) + text[place + rng.randrange(3) :]
    return text.encode("utf-8", "surrogatepass")


def damage_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = damage_json(lines[number], rng) if lines[number] else b"\0\0"
    return b"\n".join(lines)


def damage_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Damage the header or the JSON in its metadata; offsets stay as they are otherwise."""
    size = struct.unpack_from("<Q", content)[0]
    try:
        header = json.loads(content[8 : 8 + size])
        inner = next(iter(header.get("__metadata__", {}).items()), None)
        if inner is not None and rng.random() < 0.8:
            header["__metadata__"][inner[0]] = damage_json(inner[1].encode(), rng).decode(
                "utf-8", "replace"
            )
        else:
            name = rng.choice([name for name in header if name != "__metadata__"])
            header[name] = damage_value(header[name], rng)
        text = json.dumps(header).encode("utf-8", "replace")
    except (ValueError, AttributeError, IndexError, TypeError, RecursionError):
        text = damage_json(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def damage_npy(content: bytes, rng: random.Random) -> bytes:
    """Another type or shape in the header of a ``.npy`` file."""
    types = ["|O", "<U1", "<U1000000000", "<c16", "|V8", "[('a', '<i4')]", "<M8[s]", "|u1", "<f8"]
    shapes = ["()", "(0,)", "(10**19, 4)", "(9999999999999999999, 4)", "(-1, 9)", "(10000, 9)"]
    order = rng.choice(["True", "False", "None"])
    kind = rng.choice(types)
    kind = kind if kind.startswith("[") else repr(kind)
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {rng.choice(shapes)}, }}"
    header += " " * (64 - (len(header) + 11) % 64) + "\n"
    start = content.index(b"{")
    end = content.index(b"\n", start) + 1
    return content[: start - 2] + struct.pack("<H", len(header)) + header.encode() + content[end:]


def damage_tar(content: bytes, rng: random.Random) -> bytes:
    """Another number, type or name in a header, whose checksum is right."""
    data = bytearray(content)
    blocks = [i for i in range(0, len(data) - 512, 512) if data[i + 257 : i + 262] == b"ustar"]
    if not blocks:
        return content[:-512]
    at = rng.choice(blocks)
    start, length = rng.choice([(0, 100), (100, 8), (124, 12), (136, 12), (157, 100), (345, 155)])
    number = rng.choice([0, 1, 511, 2**33 - 1, len(content), -1, -512, 2**54])
    octal = f"{abs(number):0{length - 1}o}"[-length + 1 :].encode() + b"\0"
    binary = b"\xff" + number.to_bytes(length - 1, "big", signed=True) if length < 100 else octal
    data[at + start : at + start + length] = rng.choice([octal, binary, rng.randbytes(length)])
    if rng.random() < 0.5:
        data[at + 156] = rng.choice(b"0123456789xgLKSDV\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)
