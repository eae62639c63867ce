"""Read the headers of a tar shard: which members are images, and which class each has.

Every image is an image of its own, unless another one has its key. As in WebDataset, members belong
together by their names without endings, adjacent or not: ``0001.cls`` labels ``0001.jpg``, and
``0001.seg.png`` beside ``0001.jpg`` is not an image of the dataset but something about one. A name
may have dots: ``scan.2024.01.png`` and ``scan.2024.02.png`` are two images. No member is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ssltool.data.sources.class_names import nfc, numbered
from ssltool.data.sources.formats import extension_of, is_hidden, is_image
from ssltool.errors import DataError

LABEL_KEYS = ("class", "label", "cls")
"""Keys of a sample's ``json`` member that name its class; otherwise the ``cls`` member does."""

HEADER = 512
"""Bytes of the header block before the data of a member."""

_MOST_LINKS = 32  # links to links that are followed
_CHUNK = 2**20
_LARGEST_LABEL = 2**26  # bytes of a cls or json member

# What `tarfile` raises on damaged files.
_DAMAGED = (
    tarfile.TarError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    RecursionError,
    MemoryError,
)

# What is left out, before how often.
_SAME_KEY = "images left out, perhaps masks, because another has their key"
_HIDDEN = "members left out that are hidden or made by a system for itself"
_LINKS = "links left out that lead to no member"
_SPARSE = "sparse members left out"
_LARGE = "labels left out that are larger than 64 MB"
_UNUSED = "labels without an image"
_OTHERS = "members left out that are neither image nor label"
_NO_END = "shards without an end marker, perhaps cut off"
_AFTER_END = "shards with more data after their end, which is not read"


@dataclass(frozen=True)
class Table:
    """Offsets, names and labels of the images of one shard.

    Attributes:
        offsets: int64 ``[n]``, first byte of each image in the tar file.
        sizes: int64 ``[n]``, length of each image in bytes.
        headers: uint32 ``[n]``, CRC-32 of the header block before each image.
        labels: int32 ``[n]``, class numbers in ``classes``; -1 for none.
        names: The member names, concatenated, in UTF-8.
        ends: int64 ``[n]``, end of each name in ``names``.
        classes: Class names in NFC.
        filesize: Size in bytes of the tar file when it was read.
        mtime_ns: Its modification time then, in nanoseconds.
        sha256: Digest in hex of the headers and labels.
        left_out: What is not in the table -> how often.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    headers: NDArray[np.uint32]
    labels: NDArray[np.int32]
    names: bytes
    ends: NDArray[np.int64]
    classes: tuple[str, ...]
    filesize: int
    mtime_ns: int
    sha256: str
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        """Name of an image's member, undecodable bytes as surrogates."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].decode("utf-8", "surrogateescape")


def scan(path: str) -> Table:
    """Read the headers of one tar file.

    Raises:
        DataError: It is no tar file, is compressed or damaged, or ends in the middle of a member.
    """
    try:
        status = os.stat(path)
        with tarfile.open(path, "r:") as tar:
            shard = _Shard(tar, path, status.st_size)
            shard.read()
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path} is no readable tar file ({reason}); shards are plain .tar, not compressed"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    images = list(shard.images())
    labels = [shard.label(image) for image in images]
    classes, numbers = numbered(labels)
    names = [image.name.encode("utf-8", "surrogateescape") for image in images]
    return Table(
        offsets=np.array([image.data.offset for image in images], np.int64),
        sizes=np.array([image.data.size for image in images], np.int64),
        headers=np.array([image.data.header for image in images], np.uint32),
        labels=numbers,
        names=b"".join(names),
        ends=np.fromiter(accumulate(map(len, names)), np.int64, len(names)),
        classes=classes,
        filesize=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=shard.digest.hexdigest(),
        left_out=shard.left_out_counts(),
    )


@dataclass(frozen=True, slots=True)
class _Data:
    """Where the bytes of a regular member are, and what its header block was."""

    offset: int
    size: int
    header: int


@dataclass(frozen=True, slots=True)
class _Image:
    """An image among the members: which one of those with its stem it is, from 0."""

    name: str
    stem: str
    occurrence: int
    data: _Data


@dataclass
class _Shard:
    """The members of a tar file, sorted into images, labels and others."""

    tar: tarfile.TarFile
    path: str
    filesize: int
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    left_out: Counter[str] = field(default_factory=Counter)
    _candidates: list[tuple[str, _Data]] = field(default_factory=list)
    _labels: dict[str, defaultdict[str, list[str | None]]] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def read(self) -> None:
        """Read all headers, and the labels."""
        self._labels = {kind: defaultdict(list) for kind in ("json", "cls")}
        members = list(self._members())
        regular = {_normal(name): data for name, data, _ in members if data is not None}
        targets = {_normal(name): target for name, data, target in members if data is None}
        for name, own, _ in members:
            data = own or _follow(_normal(name), targets, regular)
            extension = extension_of(name)
            if any(is_hidden(part) for part in _normal(name).split("/") if part != ".."):
                self.left_out[_HIDDEN] += 1
            elif data is None:
                self.left_out[_LINKS] += 1
            elif is_image(name):
                self._candidates.append((name, data))
            elif extension in self._labels:
                self._labels[extension][_stem(name)].append(self._read_label(data, extension))
            else:
                self.left_out[_OTHERS] += 1
        self._check_end()

    def images(self) -> Iterator[_Image]:
        """The images, in the order of their members."""
        stems = Counter(_stem(name) for name, _ in self._candidates)
        taken = Counter[str]()
        names = set[str]()
        for name, data in self._candidates:
            stem = _stem(name)
            same_key = taken[stem] and name not in names  # as 1.png beside 1.jpg
            if same_key or any(parent in stems for parent in _parents(stem, words=True)):
                self.left_out[_SAME_KEY] += 1
                continue
            yield _Image(name, stem, taken[stem], data)
            taken[stem] += 1
            names.add(name)

    def label(self, image: _Image) -> str | None:
        """Class of an image: of the label with its stem, or with the longest beginning of it."""
        for stem in (image.stem, *_parents(image.stem)):
            # The class name in json takes precedence over the number in cls.
            for kind in ("json", "cls"):
                labels = self._labels[kind].get(stem)
                if labels:
                    self._used.add(stem)
                    # A tar file may hold a name several times.
                    label = labels[min(image.occurrence, len(labels) - 1)]
                    if label is not None:
                        return label
        return None

    def left_out_counts(self) -> dict[str, int]:
        """What was left out, after `images` and `label`."""
        stems = {stem for labels in self._labels.values() for stem in labels}
        self.left_out[_UNUSED] = len(stems - self._used)
        return {what: count for what, count in sorted(self.left_out.items()) if count}

    def _members(self) -> Iterator[tuple[str, _Data | None, str]]:
        """Name, and data or the name that a link points to, of files and links."""
        last = -1
        for member in self.tar:
            if member.offset <= last or member.size < 0:  # would be read for ever
                raise DataError(f"{self.path} is damaged at byte {last}; copy or pack it again")
            last = member.offset
            self.tar.members = []  # type: ignore[attr-defined]  # it keeps every header it has read
            name = member.name
            about = f"{name}\0{member.type!r}\0{member.size}\0{member.offset_data}\0"
            self.digest.update(f"{about}{member.linkname}\0".encode("utf-8", "surrogateescape"))
            if member.issparse():
                self.left_out[_SPARSE] += 1
            elif member.isfile():
                if member.offset_data + member.size > self.filesize:
                    raise DataError(
                        f"{self.path} is cut off at {member.name}; copy or pack it again"
                    )
                header = zlib.crc32(self._bytes(member.offset_data - HEADER, HEADER))
                yield name, _Data(member.offset_data, member.size, header), ""
            elif member.islnk():
                yield name, None, _normal(member.linkname)
            elif member.issym():
                folder = posixpath.dirname(name)
                yield name, None, _normal(posixpath.join(folder, member.linkname))

    def _bytes(self, offset: int, size: int) -> bytes:
        file = self.tar.fileobj
        assert file is not None
        file.seek(offset)
        return file.read(size)

    def _read_label(self, data: _Data, extension: str) -> str | None:
        if data.size > _LARGEST_LABEL:
            self.left_out[_LARGE] += 1
            return None
        content = self._bytes(data.offset, data.size)
        self.digest.update(content)
        return _label(content, extension)

    def _check_end(self) -> None:
        """Tarfile takes a damaged header for the end of the file.

        Raises:
            DataError: There is something else than an end marker.
        """
        offset = self.tar.offset
        block = self._bytes(offset, HEADER)
        if block.strip(b"\0"):
            raise DataError(f"{self.path} is damaged at byte {offset}; copy or pack it again")
        if not block:
            self.left_out[_NO_END] += 1
        while block and not block.strip(b"\0"):
            offset += len(block)
            block = self._bytes(offset, _CHUNK)
        if block:
            self.left_out[_AFTER_END] += 1


def _follow(name: str, targets: dict[str, str], regular: dict[str, _Data]) -> _Data | None:
    """Data of the member that a link leads to; None if there is none."""
    for _ in range(_MOST_LINKS):
        name = targets.get(name, "")
        if name in regular:
            return regular[name]
    return None


def _normal(name: str) -> str:
    """Name of a member without ``./`` and the like."""
    return posixpath.normpath(name)


def _stem(name: str) -> str:
    """Name of a member without its ending."""
    return _normal(name).rpartition(".")[0]


def _parents(stem: str, *, words: bool = False) -> Iterator[str]:
    """Beginnings of a stem that end before a dot of its file name, longest first.

    Args:
        stem: Such as ``a/0001.seg``.
        words: Only what is followed by more than numbers: ``img.1`` is not about ``img``.
    """
    folder, slash, base = stem.rpartition("/")
    parts = base.split(".")
    for count in range(len(parts) - 1, 0, -1):
        if not words or not all(part.isdigit() for part in parts[count:]):
            yield folder + slash + ".".join(parts[:count])


def _label(content: bytes, extension: str) -> str | None:
    """The class in a ``cls`` or ``json`` member, as text."""
    text = content.decode("utf-8", "replace").strip()
    if extension == "cls":
        return _class_name(text)
    try:
        document = json.loads(text)  # of other programs: twice the same key is read as Python does
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict):
        for key in LABEL_KEYS:
            if isinstance(document.get(key), str | int) and not isinstance(document[key], bool):
                return _class_name(str(document[key]).strip())
    return None


def _class_name(text: str) -> str | None:
    """A class name that can be written as UTF-8; None if it is empty."""
    return nfc(text).encode("utf-8", "replace").decode() or None
