"""Batches of decoded images: shuffled and endless for training, once and in order for features.

Workers deliver whole batches of uint8 squares: center squares, or whole images both of whose sides
are resized, with their aspect ratios, from which random crops are cut. A square is a pure function
of the image, so the squares are cached in memory when all of them fit; random augmentation happens
on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from types import TracebackType
from typing import Self

import torch

from ssltool.data.batch import Batch, Loaded, LoadedBatches, Request
from ssltool.data.cache import SharedCache
from ssltool.data.gpu_jpeg import JpegDecoder
from ssltool.data.sampler import Order
from ssltool.data.sources.base import Source
from ssltool.data.workers import (
    PREFETCH,
    default_workers,
    deliver,
    raise_if_worker_died,
    start_stream,
    stop,
)
from ssltool.errors import DataError, UsageError

# Bytes of a decoded set that one process reads in seconds: starting workers would not pay.
_TINY = 2**28


class _Loader:
    """A stream of batches and its worker processes, stopped at the end of a ``with`` block.

    Attributes:
        skipped: Reason by name of the images that could not be read so far.
    """

    def __init__(self, workers: int | None, tiny: bool, device: torch.device | str) -> None:
        self.skipped: dict[str, str] = {}
        self._workers = (0 if tiny else default_workers()) if workers is None else workers
        self._device = torch.device(device)
        self._stream: Iterator[Loaded] | None = None

    def _start(
        self,
        batches: LoadedBatches,
        requests: Iterable[Request],
        decode: Callable[[Batch], Batch] | None = None,
    ) -> Iterator[Batch]:
        """Stop the current stream and start another; ``decode`` is applied to what it delivers."""
        self.close()
        self._stream = start_stream(batches, requests, self._workers, self._device)
        return deliver(self._stream, self.skipped, self._device, decode)

    @property
    def ahead(self) -> int:
        """Batches that may be loaded before they are needed."""
        return PREFETCH * self._workers

    def close(self) -> None:
        """Stop the workers."""
        stop(self._stream)
        self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        raise_if_worker_died(value)


class TrainBatches(_Loader):
    """Endless shuffled batches, the same for any number of workers.

    The order of an epoch is a function of (seed, epoch), see `ssltool.data.sampler`. Global batch g
    of an epoch is the g-th slice of ``batch_size * world`` images, of which each rank takes its
    part and each of its workers whole batches in turn; the remainder of an epoch is dropped. An
    unreadable image is replaced by the next readable one and listed in ``skipped``.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        batch_size: Images B per batch and rank.
        seed: Random seed of the order.
        workers: Processes that decode; None decides from the cores and the size of the set.
        rank: Rank of this process.
        world: Number of processes that train together.
        device: Device of the batches.
        cache_bytes: Decoded images are cached if all of them fit into this.
        whole: Whole images instead of center squares.
        decoder: Decodes the JPEG files that suit it, in this process; nothing is cached then.

    Raises:
        UsageError: There are fewer images than one global batch.
    """

    def __init__(
        self,
        source: Source,
        *,
        size: int,
        batch_size: int,
        seed: int,
        workers: int | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        cache_bytes: int = 0,
        whole: bool = False,
        decoder: JpegDecoder | None = None,
    ) -> None:
        self.steps_per_epoch = len(source) // (batch_size * world)
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"{len(source)} images but a batch of {batch_size * world}: add images, or type "
                f"--batch-size {max(2, len(source) // world)}"
            )
        self._source, self._batch_size, self._seed = source, batch_size, seed
        self._rank, self._world = rank, world
        decoded = len(source) * size * size * source.channels
        cached = decoded <= cache_bytes and decoder is None
        cache = SharedCache(len(source), size, source.channels) if cached else None
        self._size, self._whole, self._decoder = size, whole, decoder
        self._batches = LoadedBatches(
            source, size, cache, replace=True, whole=whole, encoded=decoder is not None
        )
        super().__init__(workers, cache is not None and decoded <= _TINY, device)

    def from_step(self, step: int) -> Iterator[Batch]:
        """Endless batches, starting with batch ``step`` of the run.

        Raises:
            DataError: While iterating, if no image of the source can be read any more: one failed,
                and so did one that could be read before.
            SslToolError: While iterating, if a worker was killed.
        """
        decode = None if self._decoder is None else partial(self._decoded, self._decoder)
        return self._only_full(self._start(self._batches, self._requests(step), decode))

    def _decoded(self, decoder: JpegDecoder, batch: Batch) -> Batch:
        """Decode the files of a batch into its images; what the decoder refuses, on the CPU."""
        squares = decoder.squares(list(batch.files.values()), self._size, whole=self._whole)
        for row, decoded in zip(batch.files, squares, strict=True):
            if decoded is None:
                index = int(batch.indices[row])
                readable = self._batches.read_or_replace(index, self.skipped)
                if readable is None:  # a short batch says so
                    return batch._replace(indices=batch.indices[:row], files={})
                batch.indices[row] = readable[0]
                decoded = torch.from_numpy(readable[1].copy()).permute(2, 0, 1), readable[2]
            batch.images[row].copy_(decoded[0])
            if batch.aspects is not None:
                batch.aspects[row] = decoded[1]
        return batch._replace(files={})

    def _requests(self, start: int) -> Iterator[Request]:
        """The endless requests of this rank, starting with batch ``start``."""
        order = Order(len(self._source), self._source.chunks, self._seed)
        for step in count(start):
            epoch, number = divmod(step, self.steps_per_epoch)
            begin = (number * self._world + self._rank) * self._batch_size
            indices = order.slice(epoch, begin, begin + self._batch_size)
            yield Request(epoch, indices.tolist())

    def _only_full(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if len(batch.indices) < self._batch_size:
                name, reason = list(self.skipped.items())[-1]
                raise DataError(
                    f"no image of {self._source.description} can be read any more; last: "
                    f"{name}: {reason}; check that the files are still there"
                )
            yield batch


class AllImages(_Loader):
    """Every readable image once, in order; the last batch may be short.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        batch_size: Images per batch.
        workers: As for `TrainBatches`.
        device: Device of the batches.
        indices: Only these images, in this order; None for all.
        whole: Whole images stretched to squares, in place of center squares.

    Attributes:
        skipped: Reason by name of the unreadable images, complete after the last batch.
    """

    def __init__(
        self,
        source: Source,
        *,
        size: int,
        batch_size: int,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        indices: Sequence[int] | None = None,
        whole: bool = False,
    ) -> None:
        self._indices = range(len(source)) if indices is None else indices
        self._batch_size = batch_size
        self._batches = LoadedBatches(source, size, cache=None, replace=False, whole=whole)
        decoded = len(self._indices) * size * size * source.channels
        super().__init__(workers, decoded <= _TINY // 8, device)

    def __len__(self) -> int:
        """Number of images, unreadable ones included."""
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self._indices), self._batch_size)
        requests = [Request(0, list(self._indices[s : s + self._batch_size])) for s in starts]
        for batch in self._start(self._batches, requests):
            if len(batch.indices):
                yield batch
