"""`ChannelSource`: the images of another source, read as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from ssltool.data.channels import Channels, count_of
from ssltool.data.decode import square, stretched
from ssltool.data.sources.base import Source, fingerprint_of
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
        values = self.values(index)
        if self.how.are_bytes:
            return square(values, size)
        height, width = values.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return self._resized(values[top : top + side, left : left + side], size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        values = self.values(index)
        if self.how.are_bytes:
            return stretched(values, size)
        return self._resized(values, size), values.shape[1] / values.shape[0]

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

    def _resized(self, values: NDArray[Any], size: int) -> NDArray[np.uint8]:
        """Bytes ``[size, size, C]``, bilinear with antialiasing, rounded once at the end."""
        levels = torch.from_numpy(self.how.levels(values)).permute(2, 0, 1)[None]
        if levels.shape[-2:] != (size, size):
            levels = F.interpolate(levels, (size, size), mode="bilinear", antialias=True)
        resized: NDArray[np.uint8] = (
            levels[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
        )
        return resized


def as_they_are(source: Source, how: Channels | None) -> Source:
    """A source whose images are read like those of a run or of weights; RGB if None."""
    if how is None or isinstance(source, ChannelSource):
        return source
    return ChannelSource(source, how)
