"""Names of classes: their order, and labels that follow it."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ssltool.errors import DataError


def class_order(name: str) -> tuple[int, int, str, str]:
    """Sort key of class names: numbers in numerical order, before words; ties by their text."""
    if name.isascii() and name.isdigit():
        digits = name.lstrip("0")  # compared as text: int() refuses more than 4300 digits
        return 0, len(digits), digits, name
    return 1, 0, "", name


def numbered(names: Collection[str | None]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Number the classes of images.

    Args:
        names: Class name of each image, in NFC; None without one.

    Returns:
        The names in the order of `class_order`, and labels int32 ``[n]``, -1 without a class.
    """
    classes = tuple(sorted({name for name in names if name is not None}, key=class_order))
    number: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    labels = (number.get(name, -1) for name in names)
    return classes, np.fromiter(labels, np.int32, len(names))


def in_class_order(
    names: Sequence[str], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in NFC and in the order of `class_order`, and labels int64 ``[n]`` for it.

    Args:
        names: Class names as a dataset numbers them.
        labels: int64 ``[n]``, indices into ``names``; negative without a label.

    Raises:
        DataError: A label has no name.
    """
    if len(labels) and labels.max() >= len(names):
        raise DataError(f"an image is of class {labels.max()}, but {len(names)} classes have names")
    order = sorted(range(len(names)), key=lambda number: class_order(nfc(names[number])))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    labeled = labels >= 0
    renumbered = np.full_like(labels, -1)
    renumbered[labeled] = place[labels[labeled]]
    return tuple(nfc(names[number]) for number in order), renumbered


def nfc(name: str) -> str:
    """A name in Unicode's normal form C: equal names from macOS and elsewhere become the same."""
    return unicodedata.normalize("NFC", name)
