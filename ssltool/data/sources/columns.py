"""Names of the columns of a table that hold images, labels and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ssltool.console import printable
from ssltool.errors import DataError

PATHS = ("path", "file_name", "filename", "file", "image_path", "image")
IMAGES = ("image", "img", "png", "jpg", "jpeg", "webp", "bytes")
LABELS = ("label", "class", "cls", "labels", "category", "class_name")
SPLITS = ("split", "set", "subset")
_NAMED = 8  # columns that a message names


def find_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The column that has one of the wanted names, the first of them, in any case of letters."""
    by_key = {name.strip().lower(): name for name in reversed(names)}
    return next((by_key[key] for key in wanted if key in by_key), None)


def need_column(names: Sequence[str], wanted: Sequence[str], what: str, where: str) -> str:
    """As `find_column`.

    Args:
        names: Columns that there are.
        wanted: Names, any of which will do.
        what: What the column holds, for the message.
        where: Name of the table, printable.

    Raises:
        DataError: There is none.
    """
    column = find_column(names, wanted)
    if column is None:
        there = ", ".join(printable(name) or "''" for name in names[:_NAMED])
        raise DataError(
            f"{where} has no column of {what}: expected {' or '.join(wanted[:3])}, found "
            f"{there or 'none'}{', ...' if len(names) > _NAMED else ''}; rename one"
        )
    return column


def class_name(value: object) -> str | None:
    """A label as the name of a class; None without one.

    Raises:
        TypeError: It is neither text nor an integer.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"a label is a {type(value).__name__}, not text or an integer")
    name = str(value).strip()
    # Replaced characters would make one class of two.
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise TypeError("a label is not UTF-8; save the file as UTF-8")
    return name or None


def refuse_repeated(names: Sequence[str], where: str) -> None:
    """Refuse a table in which two columns share a name that is read.

    Args:
        names: Columns that there are, in any case of letters.
        where: Name of the table, printable.

    Raises:
        DataError: It is such a table.
    """
    counts = Counter(name.strip().lower() for name in names)
    for key in (*PATHS, *LABELS, *SPLITS):
        if counts[key] > 1:
            raise DataError(f"{where} has {counts[key]} columns named {key}; rename all but one")
