"""The index of tar shards: what `ssltool.data.sources.shard_scan` read, kept beside them.

``index.json`` (number of samples per shard, readable by webdataset's ``wids``) and one
``NAME.index.safetensors`` per shard. An entry holds for a shard of the same size and modification
time, and for the table of the same digest; all else counts as no index.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.numpy import save_file

from ssltool.arrays import open_tensors
from ssltool.atomic import atomic_file
from ssltool.data.sources.class_names import class_order
from ssltool.data.sources.shard_scan import HEADER, Table, scan
from ssltool.documents import DocumentError, parse_json, read_json, validated

INDEX = "index.json"

_FORMAT = "ssltool-shard-index-2"
_COLUMNS = ("offsets", "sizes", "headers", "labels", "ends")

_LARGEST_INDEX = 2**30  # bytes: it lists the classes

_Natural = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Text = Annotated[str, Field(strict=True)]


class IndexEntry(BaseModel):
    """A shard in ``index.json``.

    Attributes:
        url: Name of its file.
        nsamples: Number of images.
        filesize: Size of the tar file when it was read.
        mtime_ns: Its modification time then.
        sha256: Digest of its headers and labels.
        left_out: What is not in the table -> how often.
    """

    model_config = ConfigDict(frozen=True)

    url: _Text
    nsamples: _Natural
    filesize: _Natural
    mtime_ns: Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)]
    sha256: _Text
    left_out: dict[_Text, _Natural]

    @model_validator(mode="after")
    def _each_image_has_a_header(self) -> Self:
        if self.nsamples * HEADER > self.filesize:
            raise ValueError("more images than the file can hold")
        return self

    @classmethod
    def of(cls, path: str, table: Table) -> IndexEntry:
        """The entry of a shard that was read."""
        return cls(
            url=os.path.basename(path),
            nsamples=len(table),
            filesize=table.filesize,
            mtime_ns=table.mtime_ns,
            sha256=table.sha256,
            left_out=table.left_out,
        )

    def holds(self, path: str) -> bool:
        """Whether a shard is as it was when it was indexed."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.filesize, self.mtime_ns)


class IndexDocument(BaseModel):
    """``index.json``."""

    model_config = ConfigDict(frozen=True)

    wids_version: int = 1
    shardlist: tuple[IndexEntry, ...]
    classes: tuple[_Text, ...]

    @cached_property
    def entries(self) -> dict[str, IndexEntry]:
        """The entries by file name."""
        return {entry.url: entry for entry in self.shardlist}


class ShardIndex(NamedTuple):
    """What `write_index` wrote.

    Attributes:
        images: Number of images in all shards.
        bytes: Size of all shards.
        classes: Class names, in the order of `class_order`.
        left_out: What is not in the index -> how often.
    """

    images: int
    bytes: int
    classes: tuple[str, ...]
    left_out: dict[str, int]


class _About(BaseModel):
    """What the table of a shard says beside its columns.

    Attributes:
        classes: Class names.
        sha256: Digest of the headers and labels of the shard.
        table_sha256: Digest of the table itself.
    """

    classes: tuple[_Text, ...]
    sha256: _Text
    table_sha256: _Text


def write_index(folder: str, paths: Iterable[str], classes: Iterable[str] = ()) -> ShardIndex:
    """Scan the shards of one folder and write their index beside them, atomically.

    Args:
        folder: Folder of the shards.
        paths: The shards; consumed one by one, so that a progress bar can count them.
        classes: Classes of the dataset, of which some may have no image.
    """
    entries, found = list[IndexEntry](), set[str]()
    for path in paths:
        table = scan(path)
        _write_table(path, table)
        entries.append(IndexEntry.of(path, table))
        found.update(table.classes)
    names = tuple(sorted(found.union(classes), key=class_order))
    document = IndexDocument(shardlist=tuple(entries), classes=names)
    # Last, so that it lists only shards whose own index is there.
    with atomic_file(Path(folder) / INDEX) as temporary:
        temporary.write_text(json.dumps(document.model_dump(), indent=1) + "\n", encoding="utf-8")
    return ShardIndex(
        sum(entry.nsamples for entry in entries),
        sum(entry.filesize for entry in entries),
        names,
        count_left_out(entries),
    )


def count_left_out(entries: Iterable[IndexEntry]) -> dict[str, int]:
    """What was left out of several shards -> how often."""
    total = dict[str, int]()
    for entry in entries:
        for what, count in entry.left_out.items():
            total[what] = total.get(what, 0) + count
    return total


def left_out_notes(left_out: Mapping[str, int]) -> tuple[str, ...]:
    """What was left out, one line for each kind."""
    return tuple(f"{what}: {count:,}" for what, count in sorted(left_out.items()))


def read_index(folder: str) -> IndexDocument:
    """``index.json`` of a folder; empty if it is missing, damaged or another program's."""
    try:
        return validated(IndexDocument, read_json(Path(folder, INDEX), _LARGEST_INDEX))
    except DocumentError:
        return IndexDocument(shardlist=(), classes=())


def load_table(path: str, entry: IndexEntry) -> Table | None:
    """The table that belongs to an entry of the index; None if it is missing or damaged."""
    try:
        with open_tensors(Path(table_path(path)), "numpy") as file:
            about = validated(_About, parse_json((file.metadata() or {})[_FORMAT]))
            # Before memory is taken: the names are in the shard too.
            shapes = {name: file.get_slice(name).get_shape() for name in (*_COLUMNS, "names")}
            (size,) = shapes.pop("names")
            if size > entry.filesize or any(s != [entry.nsamples] for s in shapes.values()):
                return None
            column = {name: file.get_tensor(name) for name in _COLUMNS}
            names = file.get_tensor("names").tobytes()
        table = Table(
            **column,
            names=names,
            classes=about.classes,
            filesize=entry.filesize,
            mtime_ns=entry.mtime_ns,
            sha256=about.sha256,
            left_out=entry.left_out,
        )
    except DocumentError:
        return None
    known = about.table_sha256 == _digest(table) and about.sha256 == entry.sha256
    return table if known and _is_sound(table) else None


def _is_sound(table: Table) -> bool:
    """Whether every value of a table is of its kind, and in its file or list."""
    kinds = (np.int64, np.int64, np.uint32, np.int32, np.int64)
    if [getattr(table, name).dtype for name in _COLUMNS] != list(map(np.dtype, kinds)):
        return False
    rest = table.filesize - table.sizes
    lengths = np.diff(table.ends, prepend=0)
    return bool(
        ((table.sizes >= 0) & (table.offsets >= HEADER) & (table.offsets <= rest)).all()
        and ((table.labels >= -1) & (table.labels < len(table.classes))).all()
        and ((lengths >= 0) & (table.ends >= 0) & (table.ends <= len(table.names))).all()
    )


def _digest(table: Table) -> str:
    """SHA-256 in hex of what is stored in a table."""
    digest = hashlib.sha256(json.dumps([table.classes, table.sha256]).encode())
    for name in _COLUMNS:
        column = np.ascontiguousarray(getattr(table, name))
        digest.update(f"{column.dtype.str} {column.shape}\n".encode())
        digest.update(column.tobytes())
    digest.update(table.names)
    return digest.hexdigest()


def _write_table(path: str, table: Table) -> None:
    columns = {name: getattr(table, name) for name in _COLUMNS}
    about = _About(classes=table.classes, sha256=table.sha256, table_sha256=_digest(table))
    with atomic_file(Path(table_path(path))) as temporary:
        save_file(
            {**columns, "names": np.frombuffer(table.names, np.uint8)},
            temporary,
            # One entry: safetensors writes several in an order that changes from run to run.
            {_FORMAT: about.model_dump_json()},
        )


def table_path(path: str) -> str:
    """File of the table of a shard."""
    return f"{path.removesuffix('.tar')}.index.safetensors"
