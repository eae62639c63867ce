"""Streams of batches: loaded by worker processes, delivered to the device, stopped at the end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FrameType

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssltool.cores import available_cores
from ssltool.data.batch import Batch, Loaded, LoadedBatches, Request
from ssltool.distributed.collectives import local_world_size
from ssltool.distributed.parent import end_with_parent
from ssltool.errors import SslToolError

_MAX_WORKERS = 16
PREFETCH = 2
"""Batches that each worker loads ahead; they are in shared memory."""
_running: weakref.WeakSet[Iterator[Loaded]] = weakref.WeakSet()


def default_workers() -> int:
    """Default number of workers: one less than the cores of this process, 1 to 16.

    Processes that train together on this machine share its cores.
    """
    return max(1, min(_MAX_WORKERS, available_cores() // local_world_size() - 1))


def start_stream(
    batches: LoadedBatches, requests: Iterable[Request], workers: int, device: torch.device
) -> Iterator[Loaded]:
    """Start workers that load the requested batches, in order; with no workers, this process does.

    Args:
        batches: Loads a batch.
        requests: The images of each, may be endless.
        workers: Number of processes.
        device: Device of the batches; for CUDA they are loaded into pinned memory.
    """
    loader = DataLoader(
        batches,
        batch_size=None,  # an item is a whole batch
        sampler=requests,
        num_workers=workers,
        worker_init_fn=partial(_init_worker, parent=os.getpid()),
        pin_memory=device.type == "cuda",
        prefetch_factor=PREFETCH if workers else None,
        # Only forked workers share the cache, and newer Pythons no longer fork by default.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # The loader samples a seed when it starts; it must not advance the global generator.
        generator=torch.Generator(),
    )
    stream: Iterator[Loaded] = iter(loader)
    _running.add(stream)
    return stream


def stop(stream: Iterator[Loaded] | None) -> None:
    """Shut down the workers of a stream now.

    torch has no public way: it shuts them down when the stream is garbage-collected, which happens
    late if a traceback or a generator holds it.
    """
    shut_down = getattr(stream, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


def deliver(
    stream: Iterator[Loaded],
    skipped: dict[str, str],
    device: torch.device,
    decode: Callable[[Batch], Batch] | None,
) -> Iterator[Batch]:
    """Batches on the device, with the time spent waiting; the workers stop with the iteration.

    Args:
        stream: Of `start_stream`.
        skipped: Reason by name of the images that could not be read; is added to.
        device: Where the batches are delivered.
        decode: Applied to each batch on the device.

    Raises:
        SslToolError: While iterating, if a worker was killed.
    """
    try:
        batches = _timed(stream, skipped)
        copied = _copied_ahead(batches, device) if device.type == "cuda" else batches
        yield from copied if decode is None else map(decode, copied)
    except RuntimeError as error:
        raise_if_worker_died(error)
        raise
    finally:
        stop(stream)


def raise_if_worker_died(error: BaseException | None) -> None:
    """Translate torch's error about a dead worker, which it raises wherever the main process is.

    Raises:
        SslToolError: The error is of that kind.
    """
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        raise _death(" ".join(str(error).split()).partition(". ")[0]) from error


@atexit.register
def _stop_running() -> None:
    """Stop streams that were never closed.

    Python would send each worker one SIGTERM, which it ignores, and wait forever.
    """
    for stream in list(_running):
        stop(stream)


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


def _timed(stream: Iterator[Loaded], skipped: dict[str, str]) -> Iterator[Batch]:
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


def _death(how: str) -> SslToolError:
    return SslToolError(
        f"a decoding process died ({how}); memory or shared memory (/dev/shm) may have run out: "
        "type --workers 0"
    )
