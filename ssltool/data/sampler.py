"""In which order an epoch goes through the images: a function of (seed, epoch), known at any place
without the rest.

Up to 262,144 images, and any folder, are shuffled as a whole. Longer lists of shards are shuffled
in two stages, so that no process ever writes down the whole list: the shards are shuffled, taken
together until they hold 262,144 images (a window), and the images of each window are shuffled. What
that costs: images of one shard stay within one window of an epoch. Memory is that of a window and
of one number per shard, whatever the length of the list.
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
        chunks: Where the stretches of images end that are read together, see `Source.chunks`; none
            if the order of reading does not matter.
        seed: Of the order.
        window: Images that are shuffled together.
    """

    def __init__(self, count: int, chunks: Sequence[int], seed: int, window: int = WINDOW) -> None:
        self._count, self._seed, self._window = count, seed, window
        self._ends = np.asarray(chunks if len(chunks) and count > window else [count], np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), self._ends[:-1]])
        self._epoch = -1
        self._number, self._places = -1, np.empty(0, np.int64)  # the window at hand

    def slice(self, epoch: int, begin: int, end: int) -> NDArray[np.int64]:
        """The images at positions ``begin`` to ``end - 1`` of an epoch, int64 ``[end - begin]``."""
        self._turn_to(epoch)
        parts = list[NDArray[np.int64]]()
        while begin < end:
            number = int(np.searchsorted(self._bounds, begin, side="right")) - 1
            first, last = int(self._bounds[number]), int(self._bounds[number + 1])
            parts.append(self._opened(number)[begin - first : min(end, last) - first])
            begin = min(end, last)
        return np.concatenate(parts)

    def _turn_to(self, epoch: int) -> None:
        """Shuffle the chunks for an epoch and cut their sequence into windows."""
        if epoch == self._epoch:
            return
        self._epoch, self._number = epoch, -1
        chunks = len(self._ends)
        self._sequence = (
            _shuffled(chunks, self._seed, epoch) if chunks > 1 else np.zeros(1, np.int64)
        )
        positions = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum((self._ends - self._starts)[self._sequence])]
        )
        window = positions[:-1] // self._window  # of each chunk, by where it begins
        begins = np.flatnonzero(np.diff(window, prepend=-1))
        self._chunk_bounds = np.append(begins, chunks)
        self._bounds = positions[self._chunk_bounds]  # where each window begins, and the end

    def _opened(self, number: int) -> NDArray[np.int64]:
        """The shuffled images of a window."""
        if number != self._number:
            inside = self._sequence[self._chunk_bounds[number] : self._chunk_bounds[number + 1]]
            if len(self._ends) == 1:
                self._places = _shuffled(self._count, self._seed, self._epoch)
            else:
                listed = np.concatenate([np.arange(self._starts[c], self._ends[c]) for c in inside])
                self._places = listed[_shuffled(len(listed), self._seed, self._epoch, number + 1)]
            self._number = number
        return self._places


def _shuffled(count: int, *seed: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(list(seed))).permutation(count)
