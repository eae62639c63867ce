"""Read an evenly spaced sample of a source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssltool.data.sources.base import Source
from ssltool.errors import DataError, UnreadableImage


def sample(source: Source, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Read ``count`` evenly spaced images; neighbors stand in for those that cannot be read.

    The source is divided into ``count`` runs of images, and the first readable image of each is
    taken; if a run has none, images of the others take its place. A function of the files alone.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        count: Images to read.

    Returns:
        Images uint8 ``[n, 3, S, S]`` and their indices in the source, int64 ``[n]``, ascending; n
        is less than ``count`` only if the source has no more readable images.

    Raises:
        DataError: No image of the source can be read.
    """
    starts = torch.linspace(0, len(source) - 1, min(count, len(source))).long().tolist()
    runs = [
        iter(range(start, end))
        for start, end in zip(starts, [*starts[1:], len(source)], strict=True)
    ]
    reader = _Reader(source, size)
    for run in runs:
        reader.read_first(run)
    others = chain.from_iterable(runs)  # what the runs have left
    while len(reader.found) < len(runs) and reader.read_first(others):
        pass
    if not reader.found:
        raise DataError(
            f"no image of {source.description} can be read; first: {reader.reason}; check that "
            "the files are still there"
        )
    indices = sorted(reader.found)
    # Channels last in memory, as the loader delivers them.
    images = torch.from_numpy(np.stack([reader.found[index] for index in indices]))
    return images.permute(0, 3, 1, 2), torch.tensor(indices)


class _Reader:
    """Reads single images of a source.

    Attributes:
        found: Square by index of the images read.
        reason: Name and reason of the first image that could not be read.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        self.found: dict[int, NDArray[np.uint8]] = {}
        self.reason = ""

    def read_first(self, indices: Iterator[int]) -> bool:
        """Read the first readable of some images; whether there is one."""
        for index in indices:
            try:
                self.found[index] = self._source.read(index, self._size)
            except UnreadableImage as error:
                self.reason = self.reason or f"{self._source.name(index)}: {error}"
            else:
                return True
        return False
