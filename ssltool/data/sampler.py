"""`Order`: the shuffled order of each epoch, a function of (seed, epoch) with random access.

Up to 262,144 images, and any folder, are shuffled as a whole. Longer lists of shards are shuffled
in two stages, so that no process holds the whole list: the shards are shuffled and grouped into
windows of 262,144 images, and the images of each window are shuffled. The cost: the images of one
shard stay within one window of an epoch. Memory is that of a window and of one integer per shard.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW = 2**18


class Order:
    """The order of each epoch.

    Args:
        count: Number of images.
        chunks: Ends of the chunks of images that are read together, see `Source.chunks`; empty if
            the order of reading does not matter.
        seed: Random seed.
        window: Images that are shuffled together.
    """

    def __init__(self, count: int, chunks: Sequence[int], seed: int, window: int = WINDOW) -> None:
        self._count, self._seed, self._window = count, seed, window
        self._ends = np.asarray(chunks if len(chunks) and count > window else [count], np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), self._ends[:-1]])
        self._epoch = -1
        self._number, self._indices = -1, np.empty(0, np.int64)  # the current window

    def slice(self, epoch: int, begin: int, end: int) -> NDArray[np.int64]:
        """Indices at positions ``begin`` to ``end - 1`` of an epoch, int64 ``[n]``."""
        self._shuffle_chunks(epoch)
        parts = list[NDArray[np.int64]]()
        while begin < end:
            number = int(np.searchsorted(self._bounds, begin, side="right")) - 1
            first, last = int(self._bounds[number]), int(self._bounds[number + 1])
            parts.append(self._shuffle_window(number)[begin - first : min(end, last) - first])
            begin = min(end, last)
        return np.concatenate(parts)

    def _shuffle_chunks(self, epoch: int) -> None:
        """Shuffle the chunks for an epoch and divide their sequence into windows."""
        if epoch == self._epoch:
            return
        self._epoch, self._number = epoch, -1
        chunks = len(self._ends)
        single = np.zeros(1, np.int64)
        self._sequence = _permutation(chunks, self._seed, epoch) if chunks > 1 else single
        sizes = (self._ends - self._starts)[self._sequence]
        positions = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        window = positions[:-1] // self._window  # of each chunk, by its first position
        begins = np.flatnonzero(np.diff(window, prepend=-1))
        self._chunk_bounds = np.append(begins, chunks)
        self._bounds = positions[self._chunk_bounds]  # first position of each window, and the end

    def _shuffle_window(self, number: int) -> NDArray[np.int64]:
        """The shuffled indices of a window; the last one is kept."""
        if number == self._number:
            return self._indices
        if len(self._ends) == 1:
            self._indices = _permutation(self._count, self._seed, self._epoch)
        else:
            chunks = self._sequence[self._chunk_bounds[number] : self._chunk_bounds[number + 1]]
            indices = np.concatenate([np.arange(self._starts[c], self._ends[c]) for c in chunks])
            order = _permutation(len(indices), self._seed, self._epoch, number + 1)
            self._indices = indices[order]
        self._number = number
        return self._indices


def _permutation(count: int, *seed: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(list(seed))).permutation(count)
