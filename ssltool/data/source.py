"""Where pictures come from: folders, the demo world, or several joined into one.

A :class:`Source` is a numbered list of pictures that can be read at any square size, with optional class labels.
``open_source`` turns what was typed after ``--data`` into one; ``survey`` looks at a few of its pictures.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from ssltool.data.decode import picture_size, read_square
from ssltool.errors import DataError, UnreadablePicture, UsageError

EXTENSIONS = frozenset(
    [
        "avif",
        "bmp",
        "dib",
        "gif",
        "ico",
        "j2k",
        "jfif",
        "jp2",
        "jpe",
        "jpeg",
        "jpf",
        "jpg",
        "jpx",
        "mpo",
        "pbm",
        "pgm",
        "png",
        "pnm",
        "ppm",
        "tga",
        "tif",
        "tiff",
        "webp",
    ]
)
"""Endings, compared without case, of the files that a folder's walk takes for pictures."""

DEMO_COUNT = 4096
_DEMO_SEEDS = {"demo": 0, "demo-test": 1}
_ACCEPTED = "give a folder of pictures, demo[:N] or demo-test[:N]"
_SURVEY_SIZE = 64


class Source(ABC):
    """A numbered list of pictures. What it returns for an index never changes, in any process."""

    classes: tuple[str, ...] = ()
    """Class names in the order of the label numbers; empty without labels."""

    description: str = ""
    """One line for people: what and where it is."""

    unlisted: Mapping[str, str] = {}
    """Folders that could not be looked into, with the reason; their pictures are not in the list."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures, the unreadable ones included."""

    @abstractmethod
    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        """One picture as uint8 ``[size, size, 3]``, RGB.

        Raises:
            UnreadablePicture: With a short reason that does not name the picture.
        """

    @abstractmethod
    def short_side(self, index: int) -> int:
        """Length in pixels of a picture's shorter side, without decoding it.

        Raises:
            UnreadablePicture: As ``read``.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a picture in a message; printable, on one line."""

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Number of a picture's class in ``classes``, or None where it has none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 in hex of what makes this list this list; equal means the same pictures in the same order."""


class FolderSource(Source):
    """Every picture below a folder, at any depth, ordered by relative path; first-level folders are the classes.

    Hidden files and folders are left out, and so are files whose ending is no picture's. Links are followed, each
    real folder once. Names are kept as one block of bytes: a million of them take some 40 MB, and processes forked
    from this one share it (a list of str would be copied by mere reference counting).

    Args:
        path: The folder; ``~`` is expanded.

    Raises:
        UsageError: There is no such folder.
        DataError: The folder holds no picture file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = _existing_folder(os.fspath(path))
        self.unlisted = {}
        names, others = self._walk()
        if not names:
            raise DataError(_no_pictures(self._root, others, self.unlisted))
        names.sort()
        folders = [name.partition("/")[0] if "/" in name else None for name in names]
        self.classes = tuple(sorted({folder for folder in folders if folder is not None}))
        number = {name: label for label, name in enumerate(self.classes)}
        self._labels = np.array([-1 if folder is None else number[folder] for folder in folders], np.int32)
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
        self._names = b"".join(encoded)
        self.description = f"{len(names):,} pictures in {_printable(self._root)}"

    def _walk(self) -> tuple[list[str], int]:
        """List relative picture names, with ``/`` between folders, and count the other files."""
        names: list[str] = []
        others = 0
        seen: set[tuple[int, int]] = set()
        # Links wait until all real folders are walked, so a picture goes by its real name where it has one.
        real, linked = [""], list[str]()
        while real or linked:
            folder = real.pop() if real else linked.pop(0)
            for entry in self._entries(folder, seen):
                if entry.name.startswith("."):
                    continue
                is_folder, is_file = _kind(entry)
                if is_folder:
                    (linked if entry.is_symlink() else real).append(f"{folder}{entry.name}/")
                elif not _is_picture_name(entry.name):
                    others += 1
                # A dead link counts as a picture, to be named as unreadable later; a pipe or a device does not.
                elif is_file or not os.path.exists(entry.path):
                    names.append(folder + entry.name)
        return names, others

    def _entries(self, folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """Entries of a folder by name; nothing if its real folder was seen before or it cannot be listed."""
        path = os.path.join(self._root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                return []
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.unlisted = {**self.unlisted, _printable(path): (error.strerror or str(error)).lower()}
            return []

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return read_square(self._path(index), size)

    def short_side(self, index: int) -> int:
        return min(picture_size(self._path(index)))

    def name(self, index: int) -> str:
        return _printable(self._path(index))

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def fingerprint(self) -> str:
        return _sha256(len(self), self._ends.astype("<i8").tobytes(), self._names)

    def _path(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index > 0 else 0
        relative = self._names[start : int(self._ends[index])].decode("utf-8", "surrogateescape")
        return os.path.join(self._root, relative)


class JoinedSource(Source):
    """Several sources one after the other; classes of the same name are one class.

    Args:
        parts: The sources, at least one.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        self.classes = tuple(sorted({name for part in parts for name in part.classes}))
        number = {name: label for label, name in enumerate(self.classes)}
        self._labels = [[number[name] for name in part.classes] for part in parts]
        self.unlisted = {folder: reason for part in parts for folder, reason in part.unlisted.items()}
        self.description = " + ".join(part.description for part in parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        part, local = self._locate(index)
        return self._parts[part].read(local, size)

    def short_side(self, index: int) -> int:
        part, local = self._locate(index)
        return self._parts[part].short_side(local)

    def name(self, index: int) -> str:
        part, local = self._locate(index)
        return self._parts[part].name(local)

    def label(self, index: int) -> int | None:
        part, local = self._locate(index)
        label = self._parts[part].label(local)
        return None if label is None else self._labels[part][label]

    def fingerprint(self) -> str:
        return _sha256(len(self), *(part.fingerprint().encode() for part in self._parts))

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the part that holds a picture, and the picture's index there."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)


def open_source(specs: Sequence[str]) -> Source:
    """Open what was typed after ``--data``.

    Args:
        specs: Each a folder, ``demo[:N]`` (``N`` pictures of the demo world, 4096 by default) or ``demo-test[:N]``
            (others of the same classes). A folder that is itself called demo is written ``./demo``.

    Returns:
        One source over all of them, in the order given.

    Raises:
        UsageError: A path does not exist, is a file, or is nothing that can be opened.
        DataError: A folder has no picture in it.
    """
    if not specs:
        raise UsageError(f"no pictures given; {_ACCEPTED}")
    sources = [_open_one(spec) for spec in specs]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


@dataclass(frozen=True)
class Survey:
    """What a look at some pictures of a source tells about all of them."""

    count: int
    """Pictures in the source, unreadable ones included."""
    short_side: int
    """Median length in pixels of the sampled pictures' shorter sides."""
    gray_fraction: float
    """Share of the sampled pictures, 0 to 1, without any colour."""
    mean: tuple[float, float, float]
    """Mean of red, green and blue, each 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of red, green and blue over all sampled pixels, each 0 to 1."""
    unreadable: dict[str, str]
    """Name and reason of the sampled pictures that cannot be read, and of folders that cannot be listed."""


def survey(source: Source, sample: int = 64) -> Survey:
    """Read a sample of a source's pictures, evenly spread over it, at 64 px.

    If none of the sample is readable, the source is searched for one picture that is.

    Args:
        source: The pictures.
        sample: How many to read at most.

    Raises:
        DataError: Not one picture of the whole source can be read.
    """
    spread = np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int))
    unreadable = dict(source.unlisted)
    looks = list(_look(source, spread.tolist(), unreadable))
    looks = looks or list(islice(_look(source, range(len(source)), unreadable), 1))
    if not looks:
        name, reason = next((name, reason) for name, reason in unreadable.items() if name not in source.unlisted)
        where = source.description.partition(" in ")[2] or source.description
        raise DataError(f"none of the {len(source)} files in {where} can be read as a picture; first: {name}: {reason}")
    pictures = np.stack([picture for _, picture in looks])
    gray = (pictures == pictures[..., :1]).all(axis=(1, 2, 3))
    return Survey(
        count=len(source),
        short_side=int(np.median([side for side, _ in looks])),
        gray_fraction=float(gray.mean()),
        mean=_rgb(pictures.mean(axis=(0, 1, 2)) / 255),
        std=_rgb(pictures.std(axis=(0, 1, 2)) / 255),
        unreadable=unreadable,
    )


def _look(
    source: Source, indices: Iterable[int], unreadable: dict[str, str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield shorter side and pixels of the readable ones among some pictures; note the others."""
    for index in indices:
        try:
            yield source.short_side(index), source.read(index, _SURVEY_SIZE)
        except UnreadablePicture as error:
            unreadable[source.name(index)] = str(error)


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def _open_one(spec: str) -> Source:
    kind, _, count = spec.partition(":")
    if kind in _DEMO_SEEDS:
        from ssltool.data.demo import DemoSource  # here, because the demo world is itself built on Source

        return DemoSource(_demo_count(spec, count) if ":" in spec else DEMO_COUNT, seed=_DEMO_SEEDS[kind])
    return FolderSource(spec)


def _demo_count(spec: str, count: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", count):
        raise UsageError(
            f"{spec!r}: what follows the colon is a number of pictures below a billion, as in demo:{DEMO_COUNT}"
        )
    return int(count)


def _existing_folder(path: str) -> str:
    """Expand ``~`` and make sure that there is a folder."""
    expanded = os.path.expanduser(path)
    if os.path.isdir(expanded):
        return expanded
    if not os.path.lexists(expanded):
        # Two letters at least: one letter and a colon is a Windows drive.
        kind = "source of this kind" if re.match(r"[\w-]{2,}:", path) else "folder"
        raise UsageError(f"no {kind} at {_printable(path)}; {_ACCEPTED}")
    raise UsageError(f"{_printable(path)} is not a folder; {_ACCEPTED}")


def _no_pictures(root: str, others: int, unlisted: Mapping[str, str]) -> str:
    """Message for a folder without pictures."""
    found = f"no pictures in {_printable(root)}"
    if unlisted:
        folder, reason = next(iter(unlisted.items()))
        return f"{found}, and {folder} cannot be listed ({reason}); change its permissions or {_ACCEPTED}"
    if others:
        noun = "file has" if others == 1 else "files have"
        return f"{found}: its {others} {noun} no picture's ending (.jpg, .png, .webp, ...); {_ACCEPTED}"
    return f"{found}: it holds no files; {_ACCEPTED}"


def _is_picture_name(name: str) -> bool:
    _, dot, ending = name.rpartition(".")
    return dot != "" and ending.lower() in EXTENSIONS


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry, or what it links to, is a folder, and whether a file; a link to itself is neither."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def _printable(path: str) -> str:
    """A path as it is, or with escapes where it holds line breaks, control characters or undecodable bytes."""
    return path if path.isprintable() and path else ascii(path)[1:-1] or "''"


def _sha256(count: int, *parts: bytes) -> str:
    digest = hashlib.sha256(f"{count}\n".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
