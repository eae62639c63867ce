"""The index of tar shards: offsets, names and labels of their images, read from the tar headers.

`scan` reads the headers of one shard. `write_index` keeps the result beside the shards:
``index.json`` (number of samples per shard, readable by webdataset's ``wids``) and one
``NAME.index.safetensors`` per shard. No member is ever unpickled.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssltool.atomic import atomic_file
from ssltool.data.sources.base import class_order
from ssltool.data.sources.formats import EXTENSIONS
from ssltool.errors import DataError

INDEX = "index.json"
LABEL_KEYS = ("class", "label", "cls")
"""Keys of a sample's ``json`` member that name its class; otherwise the ``cls`` member does."""

_FORMAT = "ssltool-shard-index-1"


@dataclass(frozen=True)
class Table:
    """Offsets, names and labels of the images of one shard.

    Attributes:
        offsets: int64 ``[n]``, first byte of each image in the tar file.
        sizes: int64 ``[n]``, length of each image in bytes.
        labels: int32 ``[n]``, class numbers in ``classes``; -1 for none.
        names: The member names, concatenated, in UTF-8.
        ends: int64 ``[n]``, end of each name in ``names``.
        classes: Class names.
        filesize: Size in bytes of the tar file when it was read.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int32]
    names: bytes
    ends: NDArray[np.int64]
    classes: tuple[str, ...]
    filesize: int

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        """Name of an image's member."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].decode("utf-8", "replace")


class ShardIndex(NamedTuple):
    """What `write_index` wrote.

    Attributes:
        images: Number of images in all shards.
        bytes: Size of all shards.
        classes: Class names; numbers in numerical order, before words.
    """

    images: int
    bytes: int
    classes: tuple[str, ...]


def scan(path: str) -> Table:
    """Read the headers of one tar file.

    Raises:
        DataError: It is no tar file, is compressed, or ends in the middle of a member.
    """
    try:
        filesize = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar:
            samples = list(_image_samples(tar, path, filesize))
    except tarfile.TarError as error:
        raise DataError(
            f"{path} is no readable tar file ({error}); shards are plain .tar, not compressed"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    labels = {sample.label for sample in samples if sample.label is not None}
    classes = tuple(sorted(labels, key=class_order))
    number: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    names = [sample.name for sample in samples]
    return Table(
        np.array([sample.offset for sample in samples], np.int64),
        np.array([sample.size for sample in samples], np.int64),
        np.array([number.get(sample.label, -1) for sample in samples], np.int32),
        b"".join(names),
        np.fromiter(accumulate(map(len, names)), np.int64, len(names)),
        classes,
        filesize,
    )


@dataclass(slots=True)
class _Sample:
    """The members of one key, as far as they matter."""

    offset: int = 0
    size: int = 0
    name: bytes = b""
    label: str | None = None

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> None:
        """Take a member in: the first image, or a label."""
        if extension in ("cls", "json"):
            label = _label(tar.extractfile(member), extension)
            # The class name in json takes precedence over the number in cls.
            if label is not None and (extension == "json" or self.label is None):
                self.label = label
        elif not self.name and extension.rpartition(".")[2] in EXTENSIONS:
            self.offset, self.size = member.offset_data, member.size
            self.name = member.name.encode("utf-8", "surrogateescape")


def _image_samples(tar: tarfile.TarFile, path: str, filesize: int) -> Iterator[_Sample]:
    """The samples that hold an image, in order.

    Raises:
        DataError: The file ends in the middle of a member.
    """
    key, sample = "", _Sample()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has read
        if not member.isfile():
            continue
        if member.offset_data + member.size > filesize:
            raise DataError(f"{path} is cut off at {member.name}; copy or pack it again")
        stem, extension = _split(member.name)
        if stem != key:
            if sample.name:
                yield sample
            key, sample = stem, _Sample()
        sample.add(tar, member, extension)
    if sample.name:
        yield sample


def write_index(folder: str, paths: Iterable[str]) -> ShardIndex:
    """Scan the shards of one folder and write their index beside them, atomically.

    Args:
        folder: Folder of the shards.
        paths: The shards; consumed one by one, so that a progress bar can count them.
    """
    entries, classes = list[dict[str, str | int]](), set[str]()
    images = size = 0
    for path in paths:
        table = scan(path)
        with atomic_file(Path(_index_path(path))) as temporary:
            save_file(
                {
                    "offsets": table.offsets,
                    "sizes": table.sizes,
                    "labels": table.labels,
                    "names": np.frombuffer(table.names, np.uint8),
                    "ends": table.ends,
                },
                temporary,
                # One entry: safetensors writes several in an order that changes from run to run.
                {_FORMAT: json.dumps({"classes": table.classes, "filesize": table.filesize})},
            )
        name = os.path.basename(path)
        entries.append({"url": name, "nsamples": len(table), "filesize": table.filesize})
        classes.update(table.classes)
        images += len(table)
        size += table.filesize
    names = sorted(classes, key=class_order)
    document = {"wids_version": 1, "shardlist": entries, "classes": names}
    # Last, so that it lists only shards whose own index is there.
    with atomic_file(Path(folder) / INDEX) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return ShardIndex(images, size, tuple(names))


@dataclass(frozen=True)
class IndexEntry:
    """A shard in ``index.json``."""

    count: int
    filesize: int
    classes: tuple[str, ...]


def read_index(folder: str) -> dict[str, IndexEntry]:
    """The entries of ``index.json`` by file name; none without an index of ours."""
    try:
        document = json.loads(Path(folder, INDEX).read_text(encoding="utf-8"))
        classes = tuple(map(str, document["classes"]))
        return {
            str(entry["url"]): IndexEntry(int(entry["nsamples"]), int(entry["filesize"]), classes)
            for entry in document["shardlist"]
        }
    # Missing, or another program's: the headers are read instead.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def load_table(path: str) -> Table | None:
    """The table of a shard from its index file; None if it is missing or the shard has changed."""
    try:
        with safe_open(_index_path(path), "numpy") as file:
            about = json.loads((file.metadata() or {})[_FORMAT])
            if about["filesize"] != os.path.getsize(path):
                return None
            names = ("offsets", "sizes", "labels", "names", "ends")
            column = {name: file.get_tensor(name) for name in names}
            return Table(
                column["offsets"],
                column["sizes"],
                column["labels"],
                column["names"].tobytes(),
                column["ends"],
                tuple(about["classes"]),
                about["filesize"],
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _index_path(path: str) -> str:
    return f"{path.removesuffix('.tar')}.index.safetensors"


def _split(name: str) -> tuple[str, str]:
    """Key and extension of a member, split at the first dot of its base name as in WebDataset."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _label(file: Any, extension: str) -> str | None:
    """The class in a ``cls`` or ``json`` member, as text."""
    text = file.read().decode("utf-8", "replace").strip()
    if extension == "cls":
        return text or None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict):
        for key in LABEL_KEYS:
            if isinstance(document.get(key), str | int) and not isinstance(document[key], bool):
                return str(document[key])
    return None
