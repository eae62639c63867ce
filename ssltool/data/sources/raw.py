"""`RawSource`: decoded images in raw shards, see `ssltool.data.sources.raw_index`.

Images keep the index, the name and the label that they had where they were packed, and the squares
are those that were read there: training at this size gives the same bytes. Pixels are read at their
offset and not mapped: a file that is cut off while it is mapped ends the process.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.resizing import square, stretched
from ssltool.data.sources.base import Source, Survey
from ssltool.data.sources.fingerprints import encode, fingerprint_of
from ssltool.data.sources.locations import printable
from ssltool.data.sources.raw_index import RawIndex, RawTable, read_raw_table
from ssltool.documents import DocumentError
from ssltool.errors import DataError, UnreadableImage

_CHANGED = "its shard has changed since it was opened"
_CACHED_IMAGES = 2**20  # images whose tables a process caches; about 60 bytes each


class RawSource(Source):
    """The images of raw shards.

    Args:
        folder: Their folder.
        index: Its ``index.json``.

    Raises:
        DataError: A shard is missing, or not the one that was indexed.
    """

    def __init__(self, folder: str, index: RawIndex) -> None:
        self._size, self._entries, self._folder = index.size, index.shardlist, folder
        self._paths = [os.path.join(folder, entry.url) for entry in index.shardlist]
        self._states = [self._state_of(number) for number in range(len(self._paths))]
        self._ends = list(accumulate(entry.nsamples for entry in index.shardlist))
        self._tables: OrderedDict[int, RawTable] = OrderedDict()
        self.classes = index.classes
        size = f"decoded at {index.size} px"
        self.description = f"{self._ends[-1]:,} images in {printable(folder)}, {size}"
        self.location = os.path.realpath(folder)
        # Known from the packed images: training on the shards must not differ.
        self.surveyed = Survey(
            len(self), index.size, index.gray_fraction, index.mean, index.std, unreadable={}
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return square(self._square(index), size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        whole, aspect = self._whole(index)
        return stretched(whole, size)[0], aspect

    def image(self, index: int, short_side: int) -> Image.Image:
        whole, aspect = self._whole(index)
        side = min(short_side, self._size)
        width, height = (max(side, round(side * ratio)) for ratio in (aspect, 1 / aspect))
        return Image.fromarray(whole).resize((width, height), Image.Resampling.BILINEAR)

    def short_side(self, index: int) -> int:
        self._readable(index)
        return self._size

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def path(self, index: int) -> str:
        return f"{self._folder}/{self.relative_path(index)}"

    def relative_path(self, index: int) -> str:
        shard, local = self._locate(index)
        return self._table(shard).name(local)

    def label(self, index: int) -> int | None:
        shard, local = self._locate(index)
        label = int(self._table(shard).labels[local])
        return None if label < 0 else label

    def nbytes(self, index: int) -> int | None:
        del index
        return 3 * self._size**2

    def content(self, index: int) -> bytes:
        whole, aspect = self._whole(index)
        pixels = self._square(index).tobytes() + whole.tobytes()
        return hashlib.sha256(f"{aspect}\n".encode() + pixels).digest()

    def fingerprint(self, *, content: bool = False) -> str:
        if content:
            return super().fingerprint(content=True)
        classes = encode("\0".join(self.classes))
        names = (f"{each.nsamples}\0{each.sha256}\0".encode() for each in self._entries)
        states = (b"%d %d\n" % state for state in self._states)
        return fingerprint_of([classes, *names], states)

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the shard that holds an image, and the index of the image in the shard."""
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _state_of(self, shard: int) -> tuple[int, int]:
        """Size and modification time of a shard.

        Raises:
            DataError: It is missing, or of another size than the index says.
        """
        path, expected = self._paths[shard], self._entries[shard].filesize
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(
                f"cannot read {printable(path)}: {(error.strerror or str(error)).lower()}; copy "
                "the whole folder, or pack the images again"
            ) from error
        if status.st_size != expected:
            raise DataError(
                f"{printable(path)} has {status.st_size:,} bytes instead of {expected:,}; copy it "
                "again, or pack the images again"
            )
        return status.st_size, status.st_mtime_ns

    def _table(self, shard: int) -> RawTable:
        """The table of a shard, loaded when first needed; the least recently used are dropped."""
        if shard in self._tables:
            self._tables.move_to_end(shard)
            return self._tables[shard]
        entry = self._entries[shard]
        try:
            table = read_raw_table(Path(self._paths[shard]), self._size)
        except (DocumentError, OSError, LookupError, TypeError, ValueError) as error:
            raise UnreadableImage(f"its shard is damaged: {error}") from error
        in_classes = len(table) == 0 or int(table.labels.max()) < len(self.classes)
        if (table.sha256, len(table)) != (entry.sha256, entry.nsamples) or not in_classes:
            raise UnreadableImage(_CHANGED)
        self._tables[shard] = table
        while len(self._tables) > 1 and sum(map(len, self._tables.values())) > _CACHED_IMAGES:
            self._tables.popitem(last=False)
        return table

    def _readable(self, index: int) -> tuple[int, int, RawTable]:
        """Shard of an image, place in it, and its table.

        Raises:
            UnreadableImage: It could not be read when it was packed.
        """
        shard, local = self._locate(index)
        table = self._table(shard)
        if local in table.unreadable:
            raise UnreadableImage(table.unreadable[local])
        return shard, local, table

    def _square(self, index: int) -> NDArray[np.uint8]:
        shard, local, table = self._readable(index)
        return self._pixels(shard, table.squares, local)

    def _whole(self, index: int) -> tuple[NDArray[np.uint8], float]:
        shard, local, table = self._readable(index)
        row = int(table.rows[local])
        if row < 0:
            return self._pixels(shard, table.squares, local), 1.0
        return self._pixels(shard, table.wholes, row), float(table.aspects[local])

    def _pixels(self, shard: int, first: int, row: int) -> NDArray[np.uint8]:
        """An image ``[S, S, 3]``.

        Raises:
            UnreadableImage: The shard is missing or has changed.
        """
        length = 3 * self._size**2
        try:
            with open(self._paths[shard], "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                file.seek(first + row * length)
                data = file.read(length)
        except OSError as error:
            raise UnreadableImage((error.strerror or str(error)).lower()) from error
        state = (status.st_size, status.st_mtime_ns)
        if state != self._states[shard] or len(data) < length:
            raise UnreadableImage(_CHANGED)
        return np.frombuffer(data, np.uint8).reshape(self._size, self._size, 3)
