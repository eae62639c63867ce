"""`SharedCache`: decoded images in memory shared by all worker processes."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray


class SharedCache:
    """Decoded squares and the aspect ratios of their images, shared by all worker processes.

    An anonymous shared mapping is inherited by forked workers and, unlike shared-memory files, is
    not limited by a container's small /dev/shm.
    """

    def __init__(self, count: int, size: int, channels: int = 3) -> None:
        pixels = mmap.mmap(-1, count * channels * size * size)
        self._pixels = np.frombuffer(pixels, np.uint8).reshape(count, size, size, channels)
        self._aspects = np.frombuffer(mmap.mmap(-1, 4 * count), np.float32)
        self._filled = np.frombuffer(mmap.mmap(-1, count), np.uint8)

    def get(self, index: int) -> tuple[NDArray[np.uint8], float] | None:
        """The square ``[S, S, C]`` of an image and its aspect, if it was decoded before."""
        if not self._filled[index]:
            return None
        return self._pixels[index], float(self._aspects[index])

    def put(self, index: int, square: NDArray[np.uint8], aspect: float) -> None:
        """Store a square; the flag is set last, so that no process reads half of it."""
        self._pixels[index] = square
        self._aspects[index] = aspect
        self._filled[index] = 1
