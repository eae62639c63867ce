"""`ChannelSource`: the images of another source, read as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.channels import Channels, count_of
from ssltool.data.resizing import square, stretched
from ssltool.data.sources.base import Source
from ssltool.data.sources.fingerprints import fingerprint_of
from ssltool.errors import UnreadableImage


class ChannelSource(Source):
    """A source whose images are read as they are: bytes of N channels, see `Channels`.

    Args:
        source: Of files or arrays.
        how: Ranges and type.
    """

    def __init__(self, source: Source, how: Channels) -> None:
        self._source, self.how = source, how
        self.channels = len(how.ranges)
        self.description, self.location = source.description, source.location
        self.cacheable, self.unlisted = source.cacheable, source.unlisted
        self.notes = source.notes

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # lazy, as labels may be slow
        return self._source.classes

    @property
    def chunks(self) -> Sequence[int]:
        return self._source.chunks

    def __len__(self) -> int:
        return len(self._source)

    def values(self, index: int) -> NDArray[Any]:
        values = self._source.values(index)
        self.how.check(values)
        return values

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return _rounded(square(self._levels(index), size))

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        resized, aspect = stretched(self._levels(index), size)
        return _rounded(resized), aspect

    def image(self, index: int, short_side: int) -> Image.Image:
        raise UnreadableImage(f"{count_of(self.channels)}, which no image of RGB holds")

    def short_side(self, index: int) -> int:
        return int(min(self.values(index).shape[:2]))

    def name(self, index: int) -> str:
        return self._source.name(index)

    def label(self, index: int) -> int | None:
        return self._source.label(index)

    def relative_path(self, index: int) -> str:
        return self._source.relative_path(index)

    def split(self, index: int) -> str | None:
        return self._source.split(index)

    def path(self, index: int) -> str:
        return self._source.path(index)

    def nbytes(self, index: int) -> int | None:
        return self._source.nbytes(index)

    def content(self, index: int) -> bytes:
        return self._source.content(index)

    def fingerprint(self, *, content: bool = False) -> str:
        """Of the images, and of how they are read."""
        own, _, names = self._source.fingerprint(content=content).partition("-")
        everything = fingerprint_of([repr(self.how).encode()], [own.encode()])
        return f"{everything.partition('-')[0]}-{names}"

    def _levels(self, index: int) -> NDArray[Any]:
        """The whole image on the scale 0..255: bytes, or float32 to be rounded when resized."""
        values = self.values(index)
        return values if self.how.are_bytes else self.how.levels(values)


def _rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    return levels if levels.dtype == np.uint8 else levels.round().clip(0, 255).astype(np.uint8)


def as_they_are(source: Source, how: Channels | None) -> Source:
    """A source whose images are read like those of a run or of weights; RGB if None."""
    if how is None or isinstance(source, ChannelSource):
        return source
    return ChannelSource(source, how)
