"""`ShardSource`: images in tar shards of WebDataset layout.

The offset of each image is known from the tar headers, so shards are an indexable list like any
other source, and order, ranks and exact resume need no special case. With an index beside the
shards, see `ssltool.data.sources.shard_index`, a run opens one small file, and a process loads the
table of a shard when it first needs an image of it; without it, or if a shard has changed since,
every run reads all headers at its start.

Members are read at their offset; nothing is extracted to disk.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from typing import BinaryIO

from ssltool.data.sources.base import EncodedSource
from ssltool.data.sources.class_names import class_order, nfc
from ssltool.data.sources.fingerprints import fingerprint_of
from ssltool.data.sources.formats import check_readable
from ssltool.data.sources.locations import listed_shards, printable
from ssltool.data.sources.shard_index import (
    INDEX,
    IndexEntry,
    count_left_out,
    left_out_notes,
    load_table,
    read_index,
    table_path,
)
from ssltool.data.sources.shard_scan import HEADER, Table, scan
from ssltool.errors import DataError, UnreadableImage

UNFINISHED = ".packing.json"
"""Present in a folder of shards until `ssltool data pack` has written all of them."""
_CHANGED = "its shard has changed since it was opened"
_CACHED_IMAGES = 2**20  # images whose tables a process caches; about 40 bytes each


class ShardSource(EncodedSource):
    """The images of tar shards, shard after shard.

    Args:
        paths: The tar files, in order.
        description: Where they are; follows "... images in ".

    Raises:
        DataError: A shard is no tar file, is compressed or cut off, or none holds an image.
    """

    def __init__(self, paths: Sequence[str], description: str) -> None:
        self._paths = list(paths)
        folders = sorted({os.path.dirname(path) for path in paths})
        for folder in folders:
            check_finished(folder)
        indexes = {folder: read_index(folder) for folder in folders}
        self._entries, classes, stale = list[IndexEntry](), set[str](), list[str]()
        # Tables of shards without an index: reading their headers again would take long.
        self._scanned: dict[int, Table] = {}
        for number, path in enumerate(self._paths):
            folder, name = os.path.split(path)
            entry = indexes[folder].entries.get(name)
            if entry is not None and entry.holds(path):
                classes.update(indexes[folder].classes)
            else:
                table = self._scanned[number] = scan(path)
                stale += [path] if entry is not None or os.path.exists(table_path(path)) else []
                entry = IndexEntry.of(path, table)
                classes.update(table.classes)
            self._entries.append(entry)
        self._ends = list(accumulate(entry.nsamples for entry in self._entries))
        if not self._ends[-1]:
            raise DataError(
                f"no images in {description}: no member has an image's ending (.jpg, .png, "
                ".webp, ...)"
            )
        self.classes = tuple(sorted(classes, key=class_order))
        self._number = {name: label for label, name in enumerate(self.classes)}
        self._recent: OrderedDict[int, Table] = OrderedDict()
        self.description = f"{self._ends[-1]:,} images in {description}"
        self.location = os.pathsep.join(map(os.path.realpath, folders))
        self.notes = (*_stale_note(stale), *left_out_notes(count_left_out(self._entries)))

    @property
    def chunks(self) -> Sequence[int]:
        return self._ends

    def __len__(self) -> int:
        return self._ends[-1]

    def encoded(self, index: int) -> BinaryIO:
        data = self._bytes(index)
        check_readable(self.path(index), data[:16])
        return BytesIO(data)

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def relative_path(self, index: int) -> str:
        shard, local = self._locate(index)
        return nfc(self._table(shard).name(local).removeprefix("./"))

    def path(self, index: int) -> str:
        shard, local = self._locate(index)
        return f"{self._paths[shard]}/{self._table(shard).name(local)}"

    def nbytes(self, index: int) -> int | None:
        shard, local = self._locate(index)
        return int(self._table(shard).sizes[local])

    def content(self, index: int) -> bytes:
        return hashlib.sha256(self._bytes(index)).digest()

    def label(self, index: int) -> int | None:
        shard, local = self._locate(index)
        table = self._table(shard)
        label = int(table.labels[local])
        return None if label < 0 else self._number[table.classes[label]]

    def fingerprint(self, *, content: bool = False) -> str:
        if content:
            return super().fingerprint(content=True)
        names = (f"{each.url}\0{each.nsamples}\0{each.sha256}\0" for each in self._entries)
        states = (f"{each.filesize} {each.mtime_ns}\n" for each in self._entries)
        return fingerprint_of(map(str.encode, names), map(str.encode, states))

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the shard that holds an image, and the index of the image in the shard."""
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _table(self, shard: int) -> Table:
        """The table of a shard, loaded when first needed; the least recently used are dropped."""
        table = self._scanned.get(shard) or self._recent.get(shard)
        if table is None:
            path, entry = self._paths[shard], self._entries[shard]
            table = load_table(path, entry) or scan(path)
            if (table.sha256, len(table)) != (entry.sha256, entry.nsamples):
                raise UnreadableImage(_CHANGED)
            if not self._number.keys() >= set(table.classes):
                raise UnreadableImage(f"a class of its shard is not in {INDEX}")
            self._recent[shard] = table
            while len(self._recent) > 1 and sum(map(len, self._recent.values())) > _CACHED_IMAGES:
                self._recent.popitem(last=False)
        elif shard in self._recent:
            self._recent.move_to_end(shard)
        return table

    def _bytes(self, index: int) -> bytes:
        """The encoded bytes of an image.

        Raises:
            UnreadableImage: The shard is missing or has changed.
        """
        shard, local = self._locate(index)
        entry = self._entries[shard]
        try:
            table = self._table(shard)
            offset, size = int(table.offsets[local]), int(table.sizes[local])
            with open(self._paths[shard], "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                file.seek(offset - HEADER)
                data = file.read(HEADER + size)
        except OSError as error:
            raise UnreadableImage((error.strerror or str(error)).lower()) from error
        except UnreadableImage:
            raise
        except DataError as error:
            raise UnreadableImage(str(error)) from error
        # The header too: a copy may have been given the time of the first.
        if (
            (status.st_size, status.st_mtime_ns) != (entry.filesize, entry.mtime_ns)
            or len(data) < HEADER + size
            or zlib.crc32(data[:HEADER]) != table.headers[local]
        ):
            raise UnreadableImage(_CHANGED)
        return data[HEADER:]


def check_finished(folder: str) -> None:
    """Make sure that no packing into a folder was interrupted.

    Raises:
        DataError: One was.
    """
    if os.path.exists(os.path.join(folder, UNFINISHED)):
        raise DataError(
            f"packing {folder or '.'} was not finished; run the same 'ssltool data pack' again"
        )


def _stale_note(paths: Sequence[str]) -> tuple[str, ...]:
    """That the index of these shards was not used."""
    if not paths:
        return ()
    more = f" and of {len(paths) - 1} more" if len(paths) > 1 else ""
    folder = printable(os.path.dirname(paths[0]) or ".")
    return (
        f"the index of {printable(paths[0])}{more} is out of date or damaged, so that all headers "
        f"were read; type 'ssltool data index {folder}'",
    )


def shard_paths(spec: str) -> list[str]:
    """The tar files of a spec: a file, a pattern with braces, or a folder of nothing but tar files.

    Returns:
        Paths in order; none if ``spec`` does not name shards.

    Raises:
        UsageError: A shard of the pattern is missing.
    """
    spec = os.path.expanduser(spec)
    if spec.endswith(".tar"):
        return listed_shards(spec)
    if os.path.isdir(spec):
        try:
            with os.scandir(spec) as entries:
                names = _all_tar(entry.name for entry in entries)
        except OSError:  # reported when the folder is walked for images
            return []
        return [os.path.join(spec, name) for name in sorted(names)]
    return []


def _all_tar(names: Iterator[str]) -> list[str]:
    """The tar files of a folder, or none if it holds more than tars, an index and hidden files."""
    tars = []
    for name in names:
        if name.endswith(".tar") and not name.startswith("."):
            tars.append(name)
        elif not (name == INDEX or name.endswith(".index.safetensors") or name.startswith(".")):
            return []
    return tars
