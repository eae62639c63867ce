"""`Batch`, and how a worker loads one: images are read, replaced if unreadable, and cached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ssltool.data.cache import SharedCache
from ssltool.data.sources.base import Source
from ssltool.errors import UnreadableImage


class Batch(NamedTuple):
    """A batch on the device.

    Attributes:
        images: uint8 ``[B, C, S, S]``, squares, channels last in memory: RGB, or the N channels of
            images that are read as they are.
        indices: int64 ``[B]``, index of each image in the source.
        epoch: Number of the pass over the data, from 0.
        wait: Seconds spent waiting for the batch.
        aspects: float32 ``[B]``, width / height of the whole image that each square was stretched
            from; None for center squares.
        files: JPEG files that are still to be decoded into ``images``, by row; empty in a batch
            that is delivered.
    """

    images: Tensor
    indices: Tensor
    epoch: int
    wait: float
    aspects: Tensor | None = None
    files: Mapping[int, bytes] = {}


class Request(NamedTuple):
    """The images of a batch: their indices in the source, and the epoch."""

    epoch: int
    indices: list[int]


class Loaded(NamedTuple):
    """A batch from a worker, in memory of the CPU.

    Attributes:
        images, indices, aspects, epoch, files: As of `Batch`.
        skipped: Reason by name of the unreadable images.
    """

    images: Tensor
    indices: Tensor
    aspects: Tensor | None
    epoch: int
    skipped: dict[str, str]
    files: dict[int, bytes]


class LoadedBatches(Dataset[Loaded]):
    """Maps a request to its batch of squares; runs in the workers.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        cache: Where decoded squares are kept; None keeps none.
        replace: An unreadable image is replaced by the next readable one; otherwise it is left out.
        whole: Whole images stretched to squares, in place of center squares.
        encoded: JPEG files that a GPU can decode are left encoded.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        cache: SharedCache | None,
        *,
        replace: bool,
        whole: bool = False,
        encoded: bool = False,
    ) -> None:
        self._source, self._size, self._cache, self._replace = source, size, cache, replace
        self._whole, self._encoded = whole, encoded
        # Reason by index, so that a broken file is tried once and not in every epoch.
        self._unreadable: dict[int, str] = {}
        self._readable: int | None = None  # the last image that could be read
        self._vanished = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the cache: a process that is not forked would get a copy of its own."""
        return {**self.__dict__, "_cache": None}

    def __getitem__(self, request: Request) -> Loaded:
        if not (self._replace and self._source.in_order):
            return self._load(request)
        order = torch.tensor(request.indices).argsort(stable=True)
        loaded = self._load(Request(request.epoch, sorted(request.indices)))
        if len(loaded.indices) < len(order):
            return loaded  # no image can be read any more
        back = order.argsort()
        return loaded._replace(
            # Channels stay last in memory.
            images=loaded.images.permute(0, 2, 3, 1)[back].permute(0, 3, 1, 2),
            indices=loaded.indices[back],
            aspects=None if loaded.aspects is None else loaded.aspects[back],
        )

    def _load(self, request: Request) -> Loaded:
        skipped: dict[str, str] = {}
        # Channels last, as images are decoded and as torch resizes bytes three times as fast.
        shape = (len(request.indices), self._size, self._size, self._source.channels)
        images = torch.empty(shape, dtype=torch.uint8)
        pixels, indices, aspects = images.numpy(), list[int](), list[float]()
        files: dict[int, bytes] = {}
        for index in request.indices:
            file = self._source.jpeg(index) if self._encoded else None
            if file is not None:
                files[len(indices)] = file
                indices.append(index)
                aspects.append(1.0)
                continue
            readable = self.read_or_replace(index, skipped)
            if readable is not None:
                pixels[len(indices)] = readable[1]
                indices.append(readable[0])
                aspects.append(readable[2])
            elif self._replace:
                break  # a short batch: an exception would carry the worker's traceback
        return Loaded(
            images[: len(indices)].permute(0, 3, 1, 2),
            torch.tensor(indices, dtype=torch.int64),
            torch.tensor(aspects, dtype=torch.float32) if self._whole else None,
            request.epoch,
            skipped,
            files,
        )

    def read_or_replace(
        self, index: int, skipped: dict[str, str]
    ) -> tuple[int, NDArray[np.uint8], float] | None:
        """Index, square and aspect of an image, or, with ``replace``, of the next readable one."""
        for _ in range(len(self._source) if self._replace else 1):
            if index not in self._unreadable:
                try:
                    return index, *self._square(index)
                except UnreadableImage as error:
                    self._unreadable[index] = str(error)
                    self._vanished |= self._replace and self._have_vanished()
            skipped[self._source.name(index)] = self._unreadable[index]
            if self._vanished:
                break  # replacements would be the cached images alone
            index = (index + 1) % len(self._source)
        return None

    def _square(self, index: int) -> tuple[NDArray[np.uint8], float]:
        cached = self._cache.get(index) if self._cache else None
        if cached is not None:
            self._readable = index
            return cached
        square, aspect = self._read(index)
        self._readable = index
        if self._cache:
            self._cache.put(index, square, aspect)
        return square, aspect

    def _read(self, index: int) -> tuple[NDArray[np.uint8], float]:
        if self._whole:
            return self._source.read_whole(index, self._size)
        return self._source.read(index, self._size), 1.0

    def _have_vanished(self) -> bool:
        """Whether an image that could be read before cannot be read any more."""
        try:
            if self._readable is not None:
                self._source.read(self._readable, self._size)
        except UnreadableImage:
            return True
        return False
