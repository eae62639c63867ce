"""Label files: CSV lines of an image and its classes, matched to images by relative path."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ssltool.data.sources.base import Source
from ssltool.documents import DocumentError, cut, read_text
from ssltool.errors import DataError, UsageError

_LARGEST = 2**30  # bytes; ten million lines
_SEPARATOR = re.compile(r"(?<!\\);")
_ESCAPED = re.compile(r"\\([\\;?])")


class ClassLabel(NamedTuple):
    """A class of an image.

    Attributes:
        name: Of the class, in NFC.
        uncertain: Whether the image is ignored for the class, as VOC's difficult objects.
    """

    name: str
    uncertain: bool = False


Labels = Mapping[int, tuple[ClassLabel, ...]]
"""Index of an image in its source -> its classes."""


class LabelFile:
    """The lines of a label file.

    A line is ``IMAGE,CLASS``. An image of several classes has several lines, or one with its
    classes separated by ``;``; one of no class has nothing after the comma. ``?`` before a class
    means that the image is ignored for it. A backslash before ``;``, ``?`` or a backslash makes it
    part of a name. A first line that names no image, such as ``file,label``, is a header.

    Args:
        path: The file, UTF-8.

    Raises:
        UsageError: The file cannot be read, or has another form.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = _lines(path)
        self._first = _normalized(lines[0][0])
        self._labels: dict[str, dict[ClassLabel, None]] = {}
        for name, classes in lines:
            self._labels.setdefault(self._path_of(name), {}).update(
                dict.fromkeys(_class_labels(classes))
            )

    def match(self, sources: Sequence[Source]) -> tuple[list[Labels], list[str]]:
        """Find the classes of the images of some sources.

        A line names an image by its path below the source's root, or by that with folders above the
        root before it, up to the absolute path: ``cat/1.jpg`` and ``photos/cat/1.jpg`` name
        ``/data/photos/cat/1.jpg`` of the source ``photos``, ``1.jpg`` does not. Paths are compared
        in NFC.

        Returns:
            The labels of each source, and the paths of the lines that name none of the images.

        Raises:
            DataError: No image is listed, or a line names two images.
        """
        images: dict[str, str] = {}  # path of a line -> name of the image
        matched: list[Labels] = []
        for source in sources:
            labels: dict[int, tuple[ClassLabel, ...]] = {}
            for index in range(len(source)):
                classes: dict[ClassLabel, None] | None = None
                for path in self._listed(source, index):
                    name = source.name(index)
                    if images.setdefault(path, name) != name:
                        raise DataError(
                            f"{self.path}: the line of {path} names {images[path]} as well as "
                            f"{name}; write paths that tell them apart, from a folder above both"
                        )
                    classes = (classes or {}) | self._labels[path]
                if classes is not None:
                    labels[index] = tuple(classes)
            if not labels:
                raise DataError(
                    f"none of the {len(source)} images of {source.description} is in {self.path}; "
                    f"paths such as {source.relative_path(0)} are expected"
                )
            matched.append(labels)
        unmatched = [path for path in self._labels if path not in images]
        if unmatched[:1] == [self._first] and not PurePosixPath(self._first).suffix:
            unmatched = unmatched[1:]  # a header
        return matched, unmatched

    def _listed(self, source: Source, index: int) -> list[str]:
        """The paths by which the file lists an image."""
        relative = _normalized(source.relative_path(index))
        parts = _normalized(os.path.abspath(source.path(index))).split("/")
        shortest = len(relative.split("/"))
        paths = ["/".join(parts[start:]) for start in range(len(parts) - shortest + 1)]
        return [path for path in dict.fromkeys([*paths, relative]) if path in self._labels]

    def _path_of(self, name: str) -> str:
        path = _normalized(name)
        if path.startswith("../"):  # seen from the folder of the file
            return _normalized(os.path.abspath(self.path.parent / path))
        return path


def _lines(path: Path) -> list[tuple[str, str]]:
    """Image and classes of each line."""
    try:
        text = read_text(path, _LARGEST)
        if "\0" in text:
            raise DocumentError("it has null characters")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [row for row in lines if any(map(str.strip, row))]
    except (DocumentError, csv.Error) as error:
        raise UsageError(
            f"--label-file {path}: {error}; lines such as 'dogs/1.jpg,dog;grass' are expected"
        ) from error
    wrong = next((row for row in rows if len(row) != 2 or not row[0].strip()), None)
    if wrong is not None or not rows:
        content = f"the line {cut(','.join(wrong))!r}" if wrong else "no line"
        raise UsageError(f"--label-file {path}: {content} found, 'IMAGE,CLASS;CLASS' expected")
    return [(name, classes) for name, classes in rows]


def _class_labels(classes: str) -> list[ClassLabel]:
    labels = []
    for part in map(str.strip, _SEPARATOR.split(classes)):
        uncertain = part.startswith("?")
        name = _ESCAPED.sub(r"\1", part[1:] if uncertain else part).strip()
        if name:
            labels.append(ClassLabel(unicodedata.normalize("NFC", name), uncertain))
    return labels


def _normalized(path: str) -> str:
    """A path in NFC, without ``.`` and empty parts."""
    return os.path.normpath(unicodedata.normalize("NFC", path.strip()))
