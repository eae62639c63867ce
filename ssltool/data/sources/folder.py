"""`FolderSource`: the images of a folder, at any depth."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import decode, fitted, read_size, read_square
from ssltool.data.sources.base import ACCEPTED, Source, fingerprint_of
from ssltool.errors import DataError, UsageError

# fmt: off
EXTENSIONS = frozenset([
    "avif", "bmp", "dib", "gif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpf", "jpg", "jpx",
    "mpo", "pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp",
])
# fmt: on
"""Extensions, in lower case, of the files in a folder that are taken for images."""


class FolderSource(Source):
    """Every image below a folder, ordered by relative path; first-level folders are the classes.

    Hidden files and folders and files without an image's extension are left out. Links are
    followed, each real folder once. Names are stored as one block of bytes: a million of them take
    about 40 MB, which forked workers share (a list of str would be copied by reference counting).

    Args:
        path: The folder; ``~`` is expanded.

    Raises:
        UsageError: There is no such folder.
        DataError: The folder holds no image file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = _existing_folder(os.fspath(path))
        self.unlisted = {}
        names, others = self._walk()
        if not names:
            raise DataError(_no_images(self._root, others, self.unlisted))
        names.sort()
        # Generators below, so that there is no second list of a million.
        self.classes = tuple(sorted({name.partition("/")[0] for name in names if "/" in name}))
        number = {name: label for label, name in enumerate(self.classes)}
        labels = (number[name.partition("/")[0]] if "/" in name else -1 for name in names)
        self._labels = np.fromiter(labels, np.int32, len(names))
        lengths = (len(name.encode("utf-8", "surrogateescape")) for name in names)
        self._ends = np.fromiter(accumulate(lengths), np.int64, len(names))
        self._names = "".join(names).encode("utf-8", "surrogateescape")
        self.description = f"{len(names):,} images in {_printable(self._root)}"

    def _walk(self) -> tuple[list[str], int]:
        """List relative image names, with ``/`` between folders, and count the other files."""
        names: list[str] = []
        others = 0
        seen: set[tuple[int, int]] = set()
        # Links are walked after all real folders, so that an image has its real name if possible.
        real, linked = [""], list[str]()
        while real or linked:
            folder = real.pop() if real else linked.pop(0)
            for entry in self._entries(folder, seen):
                if entry.name.startswith("."):
                    continue
                is_folder, is_file = _kind(entry)
                if is_folder:
                    (linked if entry.is_symlink() else real).append(f"{folder}{entry.name}/")
                elif not _is_image_name(entry.name):
                    others += 1
                # A dead link counts as an image, reported as unreadable later; pipes and devices do
                # not.
                elif is_file or not os.path.exists(entry.path):
                    names.append(folder + entry.name)
        return names, others

    def _entries(self, folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """Sorted entries of a folder; none if it was seen before or cannot be listed."""
        path = os.path.join(self._root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                return []
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.unlisted = {
                **self.unlisted,
                _printable(path): (error.strerror or str(error)).lower(),
            }
            return []

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return read_square(self._path(index), size)

    def image(self, index: int, short_side: int) -> Image.Image:
        return fitted(decode(self._path(index), short_side), short_side)

    def short_side(self, index: int) -> int:
        return min(read_size(self._path(index)))

    def name(self, index: int) -> str:
        return _printable(self._path(index))

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def fingerprint(self) -> str:
        return fingerprint_of(len(self), self._ends.astype("<i8").tobytes(), self._names)

    def _path(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index > 0 else 0
        relative = self._names[start : int(self._ends[index])].decode("utf-8", "surrogateescape")
        return os.path.join(self._root, relative)


def _existing_folder(path: str) -> str:
    """Expand ``~`` and make sure that the folder exists."""
    expanded = os.path.expanduser(path)
    if os.path.isdir(expanded):
        return expanded
    if not os.path.lexists(expanded):
        # Two letters at least: one letter and a colon is a Windows drive.
        kind = "source of this kind" if re.match(r"[\w-]{2,}:", path) else "folder"
        raise UsageError(f"no {kind} at {_printable(path)}; {ACCEPTED}")
    if re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", path.lower()):
        raise UsageError(
            f"{_printable(path)} is compressed; shards are plain .tar files: decompress it"
        )
    raise UsageError(f"{_printable(path)} is not a folder; {ACCEPTED}")


def _no_images(root: str, others: int, unlisted: Mapping[str, str]) -> str:
    """Message for a folder without images."""
    start = f"no images in {_printable(root)}"
    if unlisted:
        folder, reason = next(iter(unlisted.items()))
        return (
            f"{start}, and {folder} cannot be listed ({reason}); change its permissions or "
            f"{ACCEPTED}"
        )
    if others:
        noun = "file has" if others == 1 else "files have"
        return (
            f"{start}: its {others} {noun} no image's ending (.jpg, .png, .webp, ...); {ACCEPTED}"
        )
    return f"{start}: it holds no files; {ACCEPTED}"


def _is_image_name(name: str) -> bool:
    _, dot, extension = name.rpartition(".")
    return dot != "" and extension.lower() in EXTENSIONS


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry, links followed, is a folder, and whether it is a file."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        return False, False


def _printable(path: str) -> str:
    """A path, with line breaks, control characters and undecodable bytes escaped."""
    return path if path.isprintable() and path else ascii(path)[1:-1] or "''"
