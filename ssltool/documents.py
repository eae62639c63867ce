"""Documents read back from disk: limits on size, nesting and numbers before anything is believed.

Every JSON and TOML file of ours is read through here, NumPy and safetensors files through
`ssltool.arrays`. Whatever is wrong with one becomes a `DocumentError`, without the path; its reader
turns that into an error of its own, which names the file and says what to do.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ssltool.faults import in_words

LARGEST = 64 * 2**20
"""Bytes of a document, unless its reader allows more."""
DEEPEST = 64
"""Levels of lists and tables in a document."""

_MOST_DIGITS = 19  # of 2**63 - 1
_SHOWN = 200  # characters of a fault
_MODEL = TypeVar("_MODEL", bound=BaseModel)


class DocumentError(Exception):
    """A document cannot be read, in a few words without its path."""


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        DocumentError: It is missing, unreadable, larger, or a device or pipe.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait, a device never end
            raise DocumentError("it is no regular file")
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise DocumentError((error.strerror or str(error)).lower()) from error
    if len(content) > limit:
        raise DocumentError(f"it has more than {limit:,} bytes")
    return content


def read_text(path: Path, limit: int = LARGEST) -> str:
    """The content of a file as UTF-8; a byte order mark at its start is left out.

    Raises:
        DocumentError: As `read_bytes`; it is not UTF-8.
    """
    return _decoded(read_bytes(path, limit))


def read_json(path: Path, limit: int = LARGEST) -> object:
    """The value of a JSON file.

    Raises:
        DocumentError: As `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, limit))


def read_toml(path: Path, limit: int = LARGEST) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        DocumentError: As `read_text`; it is not TOML, or nested too deeply.
    """
    try:
        document = tomllib.loads(read_text(path, limit))
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise DocumentError(f"it is no TOML: {cut(str(error))}") from error
    _check_depth(document)
    return document


def toml_value(value: bool | int | float | str | Sequence[Any]) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(toml_value, value))}]"


def parse_json(content: bytes | str, *, finite: bool = True) -> object:
    """Parse JSON as the standard has it: no NaN, no infinity (unless not ``finite``), no key twice.

    Strings may hold undecodable bytes of file names as surrogates, which pydantic's own parser
    refuses.

    Raises:
        DocumentError: It is not JSON in UTF-8, is nested more than `DEEPEST` levels, or has
            numbers beyond 64 bits.
    """
    text = content if isinstance(content, str) else _decoded(content)
    try:
        document: object = json.loads(
            text,
            object_pairs_hook=_table,
            parse_int=_integer,
            parse_float=_number if finite else float,
            parse_constant=_number if finite else float,
        )
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise DocumentError(f"it is no JSON: {error}") from error
    _check_depth(document)
    return document


def validated(model: type[_MODEL], document: object) -> _MODEL:
    """A document as a model.

    Raises:
        DocumentError: It does not fit; the first fault and its place are named.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = cut(".".join(map(str, first["loc"]))) or "the document"
        raise DocumentError(f"{where}: {cut(in_words(first))}") from error


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 at byte {error.start:,}") from error


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        again = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{cut(again)!r} is there twice")
    return table


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS + 1 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"an integer of {len(text.lstrip('-')):,} digits, beyond 64 bits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{cut(text)} is not a finite number")
    return value


def _check_depth(document: object) -> None:
    level: list[object] = [document]
    for _ in range(DEEPEST + 1):
        level = [
            value
            for values in level
            if isinstance(values, dict | list)
            for value in (values.values() if isinstance(values, dict) else values)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> DocumentError:
    return DocumentError(f"it is nested more than {DEEPEST} levels deep")


def cut(text: str) -> str:
    """The beginning of a text from a file, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
