"""Raw shards written: decoded squares of small images, in the order of their source."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssltool.atomic import atomic_file
from ssltool.console import printable
from ssltool.data.options import LARGEST_RAW_SIZE, PackOptions
from ssltool.data.sources.base import Source, Survey
from ssltool.data.sources.raw_index import (
    RawEntry,
    RawIndex,
    RawTable,
    read_raw_table,
    write_raw_shard,
)
from ssltool.data.sources.shard_index import INDEX, ShardIndex
from ssltool.data.sources.survey import automatic_size
from ssltool.errors import UnreadableImage, UsageError


class Decoded(NamedTuple):
    """An image as it is stored: its square, and the whole one where it is not square."""

    square: NDArray[np.uint8]
    whole: NDArray[np.uint8] | None
    aspect: float


class RawLayout:
    """Raw shards of a source, see `ssltool.data.sources.raw_index`.

    Args:
        source: The images.
        options: Size, or None for the one that pretraining would take, and framing.
        statistics: Of these images, or of all that are packed at this size.

    Raises:
        UsageError: The size does not suit the images.
    """

    ending = ".safetensors"

    def __init__(self, source: Source, options: PackOptions, statistics: Survey) -> None:
        self._source, self._statistics = source, statistics
        short = self._statistics.short_side
        self.size = options.size or min(automatic_size(short), LARGEST_RAW_SIZE)
        self._whole = options.framing == "whole"
        if options.size is not None and options.size > max(short, automatic_size(short)):
            raise UsageError(
                f"--size {options.size} would store enlarged images: the typical one has {short} "
                f"px; type --size {short}"
            )

    @property
    def most_bytes(self) -> int:
        """Bytes of all pixels if no image is square."""
        return len(self._source) * 3 * self.size**2 * (1 + self._whole)

    def claim(self, folder: Path) -> str:
        """The disk space that packing will take, in words.

        Raises:
            UsageError: There is less.
        """
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free, needed = shutil.disk_usage(place).free, self.most_bytes
        words = f"{len(self._source):,} images of {self.size} px decoded: {_size(needed)}"
        if self._whole:
            words += f", {_size(needed // 2)} if all are square"
        if needed > free:
            raise UsageError(
                f"{words}, but {_size(free)} are free on the disk of {folder}; type a smaller "
                "--size, --framing square, or --format jpeg"
            )
        return printable(words)

    def order(self, begin: int, end: int) -> Sequence[int]:
        """Images of a shard: an index stays what it is in the source."""
        return range(begin, end)

    def encode(self, index: int) -> Decoded | UnreadableImage:
        """An image as it will be stored, or why it cannot be read."""
        try:
            if not self._whole:
                return Decoded(self._source.read(index, self.size), None, 1.0)
            whole, aspect = self._source.read_whole(index, self.size)
            if aspect == 1:
                return Decoded(whole, None, 1.0)
            return Decoded(self._source.read(index, self.size), whole, aspect)
        except UnreadableImage as error:
            return error

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[int, Decoded | UnreadableImage], None]]:
        """A function that adds an image; the shard is written at the end of the block."""
        shape = (self.size, self.size, 3)
        squares, wholes = list[NDArray[np.uint8]](), list[NDArray[np.uint8]]()
        aspects, labels, names = list[float](), list[int](), list[bytes]()
        unreadable: dict[int, str] = {}

        def add(index: int, sample: Decoded | UnreadableImage) -> None:
            if isinstance(sample, UnreadableImage):
                unreadable[len(squares)] = str(sample)
                sample = Decoded(np.zeros(shape, np.uint8), None, 1.0)
            label = self._source.label(index)
            squares.append(sample.square)
            wholes.extend(() if sample.whole is None else (sample.whole,))
            aspects.append(sample.aspect)
            labels.append(-1 if label is None else label)
            names.append(self._source.relative_path(index).encode("utf-8", "surrogateescape"))

        yield add
        table = RawTable(
            np.array(aspects, np.float64),
            np.array(labels, np.int32),
            b"".join(names),
            np.cumsum([len(name) for name in names], dtype=np.int64),
            unreadable,
        )
        stacked = np.stack(wholes) if wholes else np.zeros((0, *shape), np.uint8)
        write_raw_shard(path, table, np.stack(squares), stacked)

    def index(self, folder: Path, paths: Sequence[Path]) -> ShardIndex:
        """Write ``index.json`` of complete shards."""
        tables = [read_raw_table(path, self.size) for path in paths]
        entries = tuple(
            RawEntry(
                url=path.name,
                nsamples=len(table),
                filesize=path.stat().st_size,
                sha256=table.sha256,
            )
            for path, table in zip(paths, tables, strict=True)
        )
        document = _index(self._statistics, self.size, self._whole, self._source.classes, entries)
        with atomic_file(folder / INDEX) as temporary:
            temporary.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
        readable = sum(len(table) - len(table.unreadable) for table in tables)
        return ShardIndex(readable, sum(entry.filesize for entry in entries), document.classes, {})


def _index(
    statistics: Survey,
    size: int,
    whole: bool,
    classes: tuple[str, ...],
    entries: tuple[RawEntry, ...],
) -> RawIndex:
    return RawIndex(
        size=size,
        framing="whole" if whole else "square",
        gray_fraction=statistics.gray_fraction,
        mean=statistics.mean,
        std=statistics.std,
        classes=classes,
        shardlist=entries,
    )


def _size(count: int) -> str:
    """A number of bytes in words."""
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
    return f"{count / unit:,.1f} {name}"
