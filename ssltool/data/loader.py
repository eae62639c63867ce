"""Batches of decoded images: shuffled and endless for training, once and in order for features.

Workers deliver whole batches of uint8 squares: center squares, or whole images both of whose sides
are resized, with their aspect ratios, from which random crops are cut. A square is a pure function
of the image, so the squares are cached in memory when all of them fit; random augmentation happens
on the device.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssltool.cores import available_cores
from ssltool.data.cache import SharedCache
from ssltool.data.gpu_jpeg import JpegDecoder
from ssltool.data.sampler import Order
from ssltool.data.sources.base import Source
from ssltool.distributed.collectives import local_world_size
from ssltool.distributed.parent import end_with_parent
from ssltool.errors import DataError, SslToolError, UnreadableImage, UsageError

# Bytes of a decoded set that one process reads in seconds: starting workers would not pay.
_TINY = 2**28
_MAX_WORKERS = 16
_PREFETCH = 2  # batches per worker; each is in shared memory


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


class _Loaded(NamedTuple):
    """A batch from a worker; ``skipped`` holds name and reason of unreadable images."""

    images: Tensor
    indices: Tensor
    aspects: Tensor | None
    epoch: int
    skipped: dict[str, str]
    files: dict[int, bytes]


class _Loader:
    """A stream of batches and its worker processes, stopped at the end of a ``with`` block.

    Attributes:
        skipped: Reason by name of the images that could not be read so far.
    """

    def __init__(self, workers: int | None, tiny: bool, device: torch.device | str) -> None:
        self.skipped: dict[str, str] = {}
        self._workers = (0 if tiny else default_workers()) if workers is None else workers
        self._device = torch.device(device)
        self._stream: Iterator[_Loaded] | None = None

    def _start(
        self,
        batches: _Batches,
        requests: Iterable[_Request],
        decode: Callable[[Batch], Batch] | None = None,
    ) -> Iterator[Batch]:
        """Stop the current stream and start another; ``decode`` is applied to what it delivers."""
        self.close()
        self._stream = _start_stream(batches, requests, self._workers, self._device)
        return _deliver(self._stream, self.skipped, self._device, decode)

    @property
    def ahead(self) -> int:
        """Batches that may be loaded before they are needed."""
        return _PREFETCH * self._workers

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
        _raise_if_worker_died(value)


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
        self._batches = _Batches(
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

    def _requests(self, start: int) -> Iterator[_Request]:
        """The endless requests of this rank, starting with batch ``start``."""
        order = Order(len(self._source), self._source.chunks, self._seed)
        for step in count(start):
            epoch, number = divmod(step, self.steps_per_epoch)
            begin = (number * self._world + self._rank) * self._batch_size
            indices = order.slice(epoch, begin, begin + self._batch_size)
            yield _Request(epoch, indices.tolist())

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
        self._batches = _Batches(source, size, cache=None, replace=False, whole=whole)
        decoded = len(self._indices) * size * size * source.channels
        super().__init__(workers, decoded <= _TINY // 8, device)

    def __len__(self) -> int:
        """Number of images, unreadable ones included."""
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self._indices), self._batch_size)
        requests = [_Request(0, list(self._indices[s : s + self._batch_size])) for s in starts]
        for batch in self._start(self._batches, requests):
            if len(batch.indices):
                yield batch


def default_workers() -> int:
    """Default number of workers: one less than the cores of this process, 1 to 16.

    Processes that train together on this machine share its cores.
    """
    return max(1, min(_MAX_WORKERS, available_cores() // local_world_size() - 1))


class _Request(NamedTuple):
    """The images of a batch."""

    epoch: int
    indices: list[int]


class _Batches(Dataset[_Loaded]):
    """Maps a request to its batch of squares; runs in the workers."""

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

    def __getitem__(self, request: _Request) -> _Loaded:
        if not (self._replace and self._source.in_order):
            return self._load(request)
        order = torch.tensor(request.indices).argsort(stable=True)
        loaded = self._load(_Request(request.epoch, sorted(request.indices)))
        if len(loaded.indices) < len(order):
            return loaded  # no image can be read any more
        back = order.argsort()
        return loaded._replace(
            # Channels stay last in memory.
            images=loaded.images.permute(0, 2, 3, 1)[back].permute(0, 3, 1, 2),
            indices=loaded.indices[back],
            aspects=None if loaded.aspects is None else loaded.aspects[back],
        )

    def _load(self, request: _Request) -> _Loaded:
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
        return _Loaded(
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


_running: weakref.WeakSet[Iterator[_Loaded]] = weakref.WeakSet()


def _start_stream(
    batches: _Batches, requests: Iterable[_Request], workers: int, device: torch.device
) -> Iterator[_Loaded]:
    """Start the workers on a list of requests."""
    loader = DataLoader(
        batches,
        batch_size=None,  # an item is a whole batch
        sampler=requests,
        num_workers=workers,
        worker_init_fn=partial(_init_worker, parent=os.getpid()),
        pin_memory=device.type == "cuda",
        prefetch_factor=_PREFETCH if workers else None,
        # Only forked workers share the cache, and newer Pythons no longer fork by default.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # The loader samples a seed when it starts; it must not advance the global generator.
        generator=torch.Generator(),
    )
    stream: Iterator[_Loaded] = iter(loader)
    _running.add(stream)
    return stream


@atexit.register
def _stop_running() -> None:
    """Stop streams that were never closed.

    Python would send each worker one SIGTERM, which it ignores, and wait forever.
    """
    for stream in list(_running):
        _stop(stream)


def _init_worker(number: int, parent: int) -> None:
    """Leave signals to the main process, which saves and then stops the workers, and end with it.

    torch's workers would notice its death after seconds only, and not while they decode or wait.
    """
    del number
    for name in ("SIGINT", "SIGHUP"):  # no SIGHUP on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    end_with_parent(parent)


def _ignore_once(number: int, frame: FrameType | None) -> None:
    """Ignore the first SIGTERM, which all processes of a job get; a second one ends this worker."""
    del frame
    signal.signal(number, signal.SIG_DFL)


def _deliver(
    stream: Iterator[_Loaded],
    skipped: dict[str, str],
    device: torch.device,
    decode: Callable[[Batch], Batch] | None,
) -> Iterator[Batch]:
    """Batches on the device, with the time spent waiting; the workers stop with the iteration."""
    try:
        batches = _timed(stream, skipped)
        copied = _copied_ahead(batches, device) if device.type == "cuda" else batches
        yield from copied if decode is None else map(decode, copied)
    except RuntimeError as error:
        _raise_if_worker_died(error)
        raise
    finally:
        _stop(stream)


def _timed(stream: Iterator[_Loaded], skipped: dict[str, str]) -> Iterator[Batch]:
    while True:
        start = time.perf_counter()
        try:
            loaded = next(stream, None)
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            # The pipe to a worker broke. An error raised in a worker says where it was "Caught".
            if not hasattr(stream, "_workers") or "Caught" in str(error):
                raise
            raise _death(f"{type(error).__name__} while it sent a batch") from error
        if loaded is None:
            return
        skipped.update(loaded.skipped)
        wait = time.perf_counter() - start
        yield Batch(loaded.images, loaded.indices, loaded.epoch, wait, loaded.aspects, loaded.files)


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to a GPU, on a separate stream, while the step before it is computed."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start_copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            # Asynchronous, from pinned memory, which torch keeps until the copy is done.
            copied = batch._replace(
                images=batch.images.to(device, non_blocking=True),
                indices=batch.indices.to(device, non_blocking=True),
            )
            if batch.aspects is not None:
                copied = copied._replace(aspects=batch.aspects.to(device, non_blocking=True))
            return copied, copying.record_event()

    def wait_for_copy(batch: Batch, done: torch.cuda.Event) -> Batch:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(done)
        for tensor in batch:
            if isinstance(tensor, Tensor):
                # Allocated on the copying stream, which must not reuse it while a step reads it.
                tensor.record_stream(computing)
        return batch

    ahead = None
    for batch in batches:
        following = start_copy(batch)
        if ahead is not None:
            yield wait_for_copy(*ahead)
        ahead = following
    if ahead is not None:
        yield wait_for_copy(*ahead)


def _raise_if_worker_died(error: BaseException | None) -> None:
    """Translate torch's error about a dead worker, which it raises wherever the main process is.

    Raises:
        SslToolError: The error is of that kind.
    """
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        raise _death(" ".join(str(error).split()).partition(". ")[0]) from error


def _death(how: str) -> SslToolError:
    return SslToolError(
        f"a decoding process died ({how}); memory or shared memory (/dev/shm) may have run out: "
        "type --workers 0"
    )


def _stop(stream: Iterator[_Loaded] | None) -> None:
    """Shut down the workers of a stream now.

    torch has no public way: it shuts them down when the stream is garbage-collected, which happens
    late if a traceback or a generator holds it.
    """
    shut_down = getattr(stream, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
