"""Batches of decoded images: for training without end and in a seeded order, for reading features
once and in order.

Workers hand over whole batches of uint8 center squares. A decoded square is a pure function of the
image, so the squares are kept in memory when all of them fit; everything random happens later, on
the device.
"""

from __future__ import annotations

import atexit
import mmap
import os
import signal
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssltool.data.sampler import Order
from ssltool.data.sources.base import Source
from ssltool.distributed.collectives import local_world_size
from ssltool.errors import DataError, SslToolError, UnreadableImage, UsageError

_TINY = 2**28  # bytes of a decoded set that one process reads in seconds: workers would only cost
_MOST_WORKERS = 16
# batches that each worker makes before they are asked for; each lies in shared memory meanwhile
_AHEAD = 2


class Batch(NamedTuple):
    """Images on their way to the network.

    Attributes:
        images: uint8 ``[B, 3, S, S]``, RGB center squares, channels last in memory.
        indices: int64 ``[B]``, place of each image in the source.
        epoch: Which pass over the data this is, from 0.
        wait: Seconds spent waiting for it.
    """

    images: Tensor
    indices: Tensor
    epoch: int
    wait: float


class _Loaded(NamedTuple):
    """What a worker hands over: images, their places, the epoch, and what could not be read."""

    images: Tensor
    indices: Tensor
    epoch: int
    skipped: dict[str, str]


class _Workers:
    """A stream of batches and the processes that decode for it, stopped on leaving a ``with``
    block.

    Attributes:
        skipped: Name and reason of what could not be read so far.
    """

    def __init__(self, workers: int | None, tiny: bool, device: torch.device | str) -> None:
        self.skipped: dict[str, str] = {}
        self._workers = (0 if tiny else usual_workers()) if workers is None else workers
        self._device = torch.device(device)
        self._stream: Iterator[_Loaded] | None = None

    def _start(self, images: _Squares, requests: Iterable[_Request]) -> Iterator[Batch]:
        """End the stream there is and begin another."""
        self.close()
        self._stream = _started(images, requests, self._workers, self._device)
        return _delivered(self._stream, self.skipped, self._device)

    @property
    def ahead(self) -> int:
        """Batches that may lie ready before they are asked for."""
        return _AHEAD * self._workers

    def close(self) -> None:
        """Stop the workers."""
        _stop(self._stream)
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
        _name_dead_worker(value)


class TrainBatches(_Workers):
    """Shuffled batches for ever, the same for any number of workers.

    The order of an epoch is drawn from (seed, epoch), see `ssltool.data.sampler`. Global batch g of
    an epoch is the g-th slice of ``batch_size * world`` images, of which each rank takes its part
    and each of its workers whole batches in turn; the remainder of an epoch is left out. An image
    that cannot be read is replaced by the next one that can, and named once in ``skipped``.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        batch_size: Images B per batch and rank.
        seed: Of the order.
        workers: Processes that decode; None decides from the cores and the size of the set.
        rank: This process among ``world``.
        world: Processes that train together.
        device: Where batches go.
        cache_bytes: Decoded images are kept in memory if all of them fit into this.

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
    ) -> None:
        self.steps_per_epoch = len(source) // (batch_size * world)
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"{len(source)} images but a batch of {batch_size * world}: add images, or type "
                f"--batch-size {max(2, len(source) // world)}"
            )
        self._source, self._batch, self._seed, self._rank, self._world = (
            source,
            batch_size,
            seed,
            rank,
            world,
        )
        decoded = len(source) * size * size * 3
        cache = _Cache(len(source), size) if decoded <= cache_bytes else None
        self._images = _Squares(source, size, cache, replace=True)
        super().__init__(workers, cache is not None and decoded <= _TINY, device)

    def from_step(self, step: int) -> Iterator[Batch]:
        """Batches without end, beginning with the one of step ``step`` (batches taken so far).

        Raises:
            DataError: While iterating, if no image of the whole source can be read any more.
            SslToolError: While iterating, if a worker was killed.
        """
        order = Order(len(self._source), self._source.chunks, self._seed)
        requests = _requests(
            order, self.steps_per_epoch, self._batch, self._rank, self._world, step
        )
        return self._full(self._start(self._images, requests))

    def _full(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if len(batch.indices) < self._batch:
                name, reason = next(iter(self.skipped.items()))
                raise DataError(
                    f"no image of {self._source.description} can be read any more; first: "
                    f"{name}: {reason}; see "
                    "that the files are still there"
                )
            yield batch


class AllImages(_Workers):
    """Every readable image once, in order; the last batch may be short.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        batch_size: Images per batch.
        workers: As for `TrainBatches`.
        device: Where batches go.
        indices: Only these places of the source, in this order.

    Attributes:
        skipped: Name and reason of what could not be read, complete after the last batch.
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
    ) -> None:
        self._places = range(len(source)) if indices is None else indices
        self._batch_size = batch_size
        self._images = _Squares(source, size, cache=None, replace=False)
        super().__init__(workers, len(self._places) * size * size * 3 <= _TINY // 8, device)

    def __len__(self) -> int:
        """Images asked for, the unreadable ones included."""
        return len(self._places)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self._places), self._batch_size)
        groups = [_Request(0, list(self._places[s : s + self._batch_size])) for s in starts]
        for batch in self._start(self._images, groups):
            if len(batch.indices):
                yield batch


def usual_workers() -> int:
    """Processes that decode beside this one: one core is left to training, and more than sixteen
    rarely help.

    Processes that train together on this machine share its cores.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(_MOST_WORKERS, cores // local_world_size() - 1))


class _Request(NamedTuple):
    """A batch asked of a worker."""

    epoch: int
    places: list[int]


def _requests(
    order: Order, per_epoch: int, batch_size: int, rank: int, world: int, start: int
) -> Iterator[_Request]:
    """The requests of one rank, for ever, from batch ``start``."""
    for step in count(start):
        epoch, g = divmod(step, per_epoch)
        begin = (g * world + rank) * batch_size
        yield _Request(epoch, order.slice(epoch, begin, begin + batch_size).tolist())


class _Cache:
    """Decoded squares shared by all worker processes.

    An anonymous shared mapping is inherited by forked workers and, unlike shared-memory files, is
    not limited by a container's small /dev/shm.
    """

    def __init__(self, count: int, size: int) -> None:
        pixels = mmap.mmap(-1, count * 3 * size * size)
        self._pixels = np.frombuffer(pixels, np.uint8).reshape(count, size, size, 3)
        self._known = np.frombuffer(mmap.mmap(-1, count), np.uint8)

    def get(self, place: int) -> NDArray[np.uint8] | None:
        """The square ``[S, S, 3]`` of an image, if it was decoded before."""
        return self._pixels[place] if self._known[place] else None

    def put(self, place: int, square: NDArray[np.uint8]) -> None:
        """Keep a square; the flag comes last, so that no process sees half of it."""
        self._pixels[place] = square
        self._known[place] = 1


class _Squares(Dataset[_Loaded]):
    """A request in, a batch of squares out; runs in the workers."""

    def __init__(self, source: Source, size: int, cache: _Cache | None, *, replace: bool) -> None:
        self._source, self._size, self._cache, self._replace = source, size, cache, replace
        self._unreadable: dict[
            int, str
        ] = {}  # so that a broken file is tried once and not in every epoch

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache behind: a process that is not forked cannot see it, and a copy in each is
        too much.
        """
        return {**self.__dict__, "_cache": None}

    def __getitem__(self, request: _Request) -> _Loaded:
        skipped: dict[str, str] = {}
        # Channels last, as images are decoded and as torch resizes bytes three times as fast.
        images = torch.empty(len(request.places), self._size, self._size, 3, dtype=torch.uint8)
        into, read = images.numpy(), list[int]()
        for place in request.places:
            found = self._readable(place, skipped)
            if found is not None:
                into[len(read)] = found[1]
                read.append(found[0])
            elif self._replace:
                # A short batch says that nothing is left; an exception would arrive with the
                # worker's traceback in it.
                break
        return _Loaded(
            images[: len(read)].permute(0, 3, 1, 2),
            torch.tensor(read, dtype=torch.int64),
            request.epoch,
            skipped,
        )

    def _readable(
        self, place: int, skipped: dict[str, str]
    ) -> tuple[int, NDArray[np.uint8]] | None:
        """An image, or, if images are to be replaced, the next one that can be read."""
        for _ in range(len(self._source) if self._replace else 1):
            if place not in self._unreadable:
                try:
                    return place, self._square(place)
                except UnreadableImage as error:
                    self._unreadable[place] = str(error)
            skipped[self._source.name(place)] = self._unreadable[place]
            place = (place + 1) % len(self._source)
        return None

    def _square(self, place: int) -> NDArray[np.uint8]:
        known = self._cache.get(place) if self._cache else None
        if known is not None:
            return known
        square = self._source.read(place, self._size)
        if self._cache:
            self._cache.put(place, square)
        return square


_running: weakref.WeakSet[Iterator[_Loaded]] = weakref.WeakSet()


def _started(
    images: _Squares, requests: Iterable[_Request], workers: int, device: torch.device
) -> Iterator[_Loaded]:
    """Start the workers on a list of requests."""
    loader = DataLoader(
        images,
        batch_size=None,  # an item is a whole batch already
        sampler=requests,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        pin_memory=device.type == "cuda",
        prefetch_factor=_AHEAD if workers else None,
        # Only forked workers share the cache, and newer Pythons no longer fork unless told to.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # The loader draws a number when it starts; it must not come from the generator that others
        # draw from.
        generator=torch.Generator(),
    )
    stream: Iterator[_Loaded] = iter(loader)
    _running.add(stream)
    return stream


@atexit.register
def _stop_running() -> None:
    """End what was never closed: Python would send each worker one SIGTERM, which it ignores, and
    wait for ever.
    """
    for stream in list(_running):
        _stop(stream)


def _begin_worker(number: int) -> None:
    """Leave signals to the main process, which saves and then stops the workers."""
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _overhear)


def _overhear(number: int, frame: FrameType | None) -> None:
    """Take the first SIGTERM for one sent to all processes of a job; a second one is meant for this
    worker.
    """
    del frame
    signal.signal(number, signal.SIG_DFL)


def _delivered(
    stream: Iterator[_Loaded], skipped: dict[str, str], device: torch.device
) -> Iterator[Batch]:
    """Move what workers hand over to the device, timing the wait; the workers end with the
    iteration.
    """
    try:
        batches = _timed(stream, skipped)
        yield from _copied_ahead(batches, device) if device.type == "cuda" else batches
    except RuntimeError as error:
        _name_dead_worker(error)
        raise
    finally:
        _stop(stream)


def _timed(stream: Iterator[_Loaded], skipped: dict[str, str]) -> Iterator[Batch]:
    while True:
        start = time.perf_counter()
        try:
            loaded = next(stream, None)
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            # The line on which a worker hands over its batch is cut; what it raised itself says
            # where it was caught.
            if not hasattr(stream, "_workers") or "Caught" in str(error):
                raise
            raise _death(f"{type(error).__name__} while it handed over a batch") from error
        if loaded is None:
            return
        skipped.update(loaded.skipped)
        yield Batch(loaded.images, loaded.indices, loaded.epoch, time.perf_counter() - start)


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to a GPU, on a stream of its own, while the step before it is computed."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            # The memory is pinned, so this returns at once; torch keeps it until the copy is done.
            images = batch.images.to(device, non_blocking=True)
            indices = batch.indices.to(device, non_blocking=True)
            return batch._replace(images=images, indices=indices), copying.record_event()

    def handed_over(batch: Batch, done: torch.cuda.Event) -> Batch:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(done)
        for tensor in (batch.images, batch.indices):
            # They were allocated for the copying stream, which must not reuse them while a step
            # still reads them.
            tensor.record_stream(computing)
        return batch

    ahead = None
    for batch in batches:
        following = copied(batch)
        if ahead is not None:
            yield handed_over(*ahead)
        ahead = following
    if ahead is not None:
        yield handed_over(*ahead)


def _name_dead_worker(error: BaseException | None) -> None:
    """Turn what torch raises when a worker dies, at whatever line the main process then is, into
    one line.

    Raises:
        SslToolError: The error was of that kind.
    """
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        raise _death(" ".join(str(error).split()).partition(". ")[0]) from error


def _death(how: str) -> SslToolError:
    return SslToolError(
        f"a decoding process died ({how}); memory or shared memory (/dev/shm) may have run out: "
        "type --workers 0"
    )


def _stop(stream: Iterator[_Loaded] | None) -> None:
    """Shut the workers of a stream down now; torch would do so when the stream is collected."""
    shut_down = getattr(stream, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
