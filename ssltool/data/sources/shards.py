"""`ShardSource`: images in tar shards of WebDataset layout.

The members of a sample share a key and are adjacent: ``KEY.jpg KEY.cls ...``. The offset of each
image is known from the tar headers, so shards are an indexable list like any other source, and
order, ranks and exact resume need no special case. With an index beside the shards, see
`ssltool.data.sources.shard_index`, a run opens one small file, and a process loads the table of a
shard when it first needs an image of it; without it, every run reads all headers at its start.

Members are read at their offset; nothing is extracted to disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import decode, dimensions, fitted, read_square
from ssltool.data.sources.base import ACCEPTED, Source, class_order, fingerprint_of, nfc, printable
from ssltool.data.sources.shard_index import (
    INDEX,
    IndexEntry,
    Table,
    load_table,
    read_index,
    scan,
)
from ssltool.errors import DataError, UnreadableImage, UsageError

UNFINISHED = ".packing.json"
"""Present in a folder of shards until `ssltool data pack` has written all of them."""
_CACHED_IMAGES = 2**20  # images whose tables a process caches; about 40 bytes each


class ShardSource(Source):
    """The images of tar shards, shard after shard.

    Args:
        paths: The tar files, in order.
        description: Where they are; follows "... images in ".

    Raises:
        DataError: A shard is no tar file, is compressed or cut off, or none holds an image.
    """

    def __init__(self, paths: Sequence[str], description: str) -> None:
        self._paths = list(paths)
        for folder in {os.path.dirname(path) for path in paths}:
            if os.path.exists(os.path.join(folder, UNFINISHED)):
                raise DataError(
                    f"packing {folder or '.'} was not finished; run the same 'ssltool data pack' "
                    "again"
                )
        folders = sorted({os.path.dirname(path) for path in paths})
        indexes = {folder: read_index(folder) for folder in folders}
        # Tables of shards without an index: reading their headers again would take long.
        self._scanned: dict[int, Table] = {}
        counts, self._filesizes, classes = list[int](), list[int](), set[str]()
        for number, path in enumerate(self._paths):
            entry = indexes[os.path.dirname(path)].get(os.path.basename(path))
            if entry is None:
                table = load_table(path) or scan(path)
                self._scanned[number] = table
                entry = IndexEntry(len(table), table.filesize, table.classes)
            counts.append(entry.count)
            self._filesizes.append(entry.filesize)
            classes.update(entry.classes)
        self._ends = list(accumulate(counts))
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

    @property
    def chunks(self) -> Sequence[int]:
        return self._ends

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return read_square(self._member(index), size)

    def image(self, index: int, short_side: int) -> Image.Image:
        return fitted(decode(self._member(index), short_side), short_side)

    def short_side(self, index: int) -> int:
        return min(dimensions(self._member(index)))

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
        return hashlib.sha256(self._member(index).read()).digest()

    def label(self, index: int) -> int | None:
        shard, local = self._locate(index)
        table = self._table(shard)
        label = int(table.labels[local])
        return None if label < 0 else self._number[table.classes[label]]

    def fingerprint(self, *, content: bool = False) -> str:
        if content:
            return super().fingerprint(content=True)
        names = map(os.path.basename, self._paths)
        shards = zip(names, self._ends, self._filesizes, strict=True)
        return fingerprint_of(
            [f"{len(self)}".encode()],
            (f"{name}\t{end}\t{size}\n".encode() for name, end, size in shards),
        )

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the shard that holds an image, and the index of the image in the shard."""
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _table(self, shard: int) -> Table:
        """The table of a shard, loaded when first needed; the least recently used are dropped."""
        table = self._scanned.get(shard) or self._recent.get(shard)
        if table is None:
            path = self._paths[shard]
            table = load_table(path) or scan(path)
            count = self._ends[shard] - (self._ends[shard - 1] if shard else 0)
            if len(table) != count:
                raise UnreadableImage(f"{path} holds {len(table)} images, its {INDEX} says {count}")
            self._recent[shard] = table
            while len(self._recent) > 1 and sum(map(len, self._recent.values())) > _CACHED_IMAGES:
                self._recent.popitem(last=False)
        elif shard in self._recent:
            self._recent.move_to_end(shard)
        return table

    def _member(self, index: int) -> BinaryIO:
        """The encoded bytes of an image.

        Raises:
            UnreadableImage: The shard is missing or has changed.
        """
        shard, local = self._locate(index)
        try:
            table = self._table(shard)
            with open(self._paths[shard], "rb", buffering=0) as file:
                file.seek(int(table.offsets[local]))
                data = file.read(int(table.sizes[local]))
        except OSError as error:
            raise UnreadableImage((error.strerror or str(error)).lower()) from error
        except UnreadableImage:
            raise
        except DataError as error:
            raise UnreadableImage(str(error)) from error
        if len(data) < table.sizes[local]:
            raise UnreadableImage("its shard is cut off")
        return BytesIO(data)


def shard_paths(spec: str) -> list[str]:
    """The tar files of a spec: a file, a pattern with braces, or a folder of nothing but tar files.

    Returns:
        Paths in order; none if ``spec`` does not name shards.

    Raises:
        UsageError: A shard of the pattern is missing.
    """
    spec = os.path.expanduser(spec)
    if spec.endswith(".tar"):
        paths = list(expand_braces(spec))
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            among = f" ({len(missing)} of {len(paths)} are missing)" if len(paths) > 1 else ""
            raise UsageError(f"no shard at {missing[0]}{among}; {ACCEPTED}")
        return paths
    if os.path.isdir(spec):
        try:
            with os.scandir(spec) as entries:
                names = _all_tar(entry.name for entry in entries)
        except OSError:  # reported when the folder is walked for images
            return []
        return [os.path.join(spec, name) for name in sorted(names)]
    return []


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand ``{0..9}``, ``{0000..0099}`` (zeros kept) and ``{a,b}`` as shells do; not nested."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is None:
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    else:
        choices = words.split(",")
    for rest in expand_braces(pattern[match.end() :]):
        for word in choices:
            yield pattern[: match.start()] + word + rest


def _all_tar(names: Iterator[str]) -> list[str]:
    """The tar files of a folder, or none if it holds more than tars, an index and hidden files."""
    tars = []
    for name in names:
        if name.endswith(".tar") and not name.startswith("."):
            tars.append(name)
        elif not (name == INDEX or name.endswith(".index.safetensors") or name.startswith(".")):
            return []
    return tars
