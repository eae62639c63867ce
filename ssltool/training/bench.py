"""Training throughput of a method against its bare network, measured in one run.

Four things are timed in turn, round after round, so that a machine whose speed drifts changes all
of them alike: the loader alone, the view (crops, tiles, guards) alone, the bare network (encoder
and head, forward, backward and optimizer step) on a ready view, and the whole of it end to end.
Medians over the rounds are reported, per second of wall time and per CPU-second of all processes
(the figure to compare on a shared machine).
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn

from ssltool.console import stderr_console
from ssltool.data.sources.registry import open_source
from ssltool.errors import SslToolError, is_out_of_memory
from ssltool.methods.base import Loss, Method, Metric
from ssltool.runs.config import RunConfig
from ssltool.runs.records import Part
from ssltool.training.loop import TrainBatch, train
from ssltool.training.start import new_run
from ssltool.training.trainer import Trainer, peak_memory


class _ReadyView(nn.Module):
    """A method with a fixed view: what is left of a step is the bare network."""

    def __init__(self, method: Method[Any, Any], view: Any) -> None:
        super().__init__()
        self.method = method
        self._view = view

    def view(
        self,
        images: Tensor,
        index: Tensor,
        generator: torch.Generator,
        aspects: Tensor | None = None,
    ) -> Any:
        """The ready view, whatever the batch."""
        del images, index, generator, aspects
        return self._view

    def forward(self, view: Any) -> Loss:
        loss: Loss = self.method(view)
        return loss

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of the method."""
        return self.method.metrics

    def after_step(self, updates: Any) -> None:
        """Nothing: bookkeeping is not part of the bare network."""


class BenchResult(Part):
    """Training throughput of a method.

    Attributes:
        method: Name of the method.
        batch_size: Images per batch.
        images_per_s: Part (``loader``, ``view``, ``bare``, ``end_to_end``) -> images per second.
        images_per_cpu_s: The same per CPU-second of all processes.
        ratio: End to end over bare network, by CPU-seconds.
        ratio_wall: The same by wall time.
        peak_memory_gb: Of the GPU when training on one, else of this process.
        rounds: Interleaved repeats; medians over them are reported.
        steps: Optimizer steps in each.
        precision: Compute precision.
        options: Every resolved option.
    """

    method: str
    batch_size: int
    images_per_s: dict[str, float]
    images_per_cpu_s: dict[str, float]
    ratio: float
    ratio_wall: float
    peak_memory_gb: float
    rounds: int
    steps: int
    precision: str
    options: dict[str, Any]


class SweepResult(Part):
    """Throughput over batch sizes.

    Attributes:
        method: Name of the method.
        sweep: A result for each size that fits, ascending.
        largest: Largest size that fits.
        fastest: Size with the most images per second, end to end.
        stopped: Why no larger size was tried.
    """

    method: str
    sweep: tuple[BenchResult, ...]
    largest: int
    fastest: int
    stopped: str


def bench(
    config: RunConfig, *, rounds: int = 5, steps: int = 4, console: Console | None = None
) -> BenchResult:
    """Measure training throughput; nothing is written.

    Args:
        config: Method and options, as for `ssltool.training.pretrain.pretrain`.
        rounds: Repeats of the four measurements, interleaved.
        steps: Steps in each.
        console: Where progress goes.
    """
    console = console or stderr_console()
    on_cpu = config.run.device in {"auto", "cpu"} and not torch.cuda.is_available()
    if config.run.workers is None and on_cpu:
        # Workers decode ahead, during the other measurements; in this process the cost stays where
        # it belongs.
        config = config.with_run(workers=0)
    # Every image is decoded in every pass: a cache filled by the warm-up would flatter the loader.
    trainer = Trainer.build(new_run(config), console, cache_bytes=0)
    with trainer.batches:
        times, batch = _measure(trainer, rounds, steps, console)
    images = dict.fromkeys(("loader", "view"), steps * batch)
    images |= dict.fromkeys(("bare", "end_to_end"), steps * batch * trainer.schedule.accumulate)
    wall = {part: statistics.median(wall for wall, _ in times[part]) for part in images}
    cpu = {part: max(1e-9, statistics.median(cpu for _, cpu in times[part])) for part in images}
    pairs = list(zip(times["bare"], times["end_to_end"], strict=True))
    return BenchResult(
        method=config.method,
        batch_size=trainer.config.run.batch_size,
        images_per_s={part: count / wall[part] for part, count in images.items()},
        images_per_cpu_s={part: count / cpu[part] for part, count in images.items()},
        ratio=statistics.median(bare[1] / whole[1] for bare, whole in pairs),
        ratio_wall=statistics.median(bare[0] / whole[0] for bare, whole in pairs),
        peak_memory_gb=round(peak_memory(trainer.device) / 1e9, 2),
        rounds=rounds,
        steps=steps,
        precision=trainer.schedule.precision.name,
        options=trainer.config.options(),
    )


def _measure(
    trainer: Trainer, rounds: int, steps: int, console: Console
) -> tuple[dict[str, list[tuple[float, float]]], int]:
    """Wall and CPU seconds of each part in each round, and the images of a batch."""
    stream = trainer.batches.from_step(0)
    first = next(stream)
    generator = torch.Generator().manual_seed(trainer.schedule.seed)
    method = trainer.method.train()
    of_whole_images = {} if first.aspects is None else {"aspects": first.aspects}
    view = method.view(first.images, first.indices, generator, **of_whole_images)
    ready = cast("Method[Any, Any]", _ReadyView(method, view))
    tasks: dict[str, Callable[[], object]] = {
        "view": lambda: [
            method.view(first.images, first.indices, generator, **of_whole_images)
            for _ in range(steps)
        ],
        "bare": _taking(trainer, ready, repeat(first), steps),
        # What workers made ready during the other measurements does not count: the loader is timed
        # when that is used up, and the whole when the workers are as far ahead as in a long run.
        "emptying": lambda: deque(islice(stream, trainer.batches.ahead), maxlen=0),
        "loader": lambda: deque(islice(stream, steps), maxlen=0),
        "settling": _taking(trainer, method, stream, trainer.batches.ahead),
        "end_to_end": _taking(trainer, method, stream, steps),
    }
    return _interleaved(tasks, rounds, trainer.device, console), len(first.indices)


def sweep(
    config: RunConfig,
    sizes: Sequence[int] | None = None,
    *,
    rounds: int = 3,
    steps: int = 2,
    console: Console | None = None,
) -> SweepResult:
    """Measure which batch sizes fit into memory, and which is the fastest.

    Args:
        config: Method and options.
        sizes: Batch sizes to try, ascending; if None, doubled from 16 until the memory or the
            images run out or, on a CPU, two sizes in a row are no faster.
        rounds: Repeats at each size.
        steps: Steps in each.
        console: Where progress goes.

    Raises:
        SslToolError: Not even the smallest size fits.
    """
    console = console or stderr_console()
    rows: list[BenchResult] = []
    images, stopped = (
        len(open_source(config.run.data, split="train", arrays=config.run.as_they_are)),
        "all sizes asked for were tried",
    )
    for size in sizes or (2**power for power in range(4, 31)):
        if size > images:
            stopped = f"there are {images} images"
            break
        if rows and _expected_memory(rows, size) > _memory(config):
            needed = _expected_memory(rows, size) / 1e9
            stopped = f"a batch of {size} would need about {needed:.1f} GB of memory"
            break
        console.print(f"batch {size}")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            of_size = config.with_run(batch_size=size)
            rows.append(bench(of_size, rounds=rounds, steps=steps, console=console))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            stopped = f"memory ran out with a batch of {size}"
            torch.cuda.empty_cache()
            break
        if sizes is None and not torch.cuda.is_available() and _is_past_its_best(rows):
            stopped = "two sizes in a row were no faster"
            break
    if not rows:
        raise SslToolError(
            f"no batch size can be measured: {stopped}; give smaller ones to --sweep, or more "
            "images"
        )
    return SweepResult(
        method=config.method,
        sweep=tuple(rows),
        largest=rows[-1].batch_size,
        fastest=max(rows, key=lambda row: row.images_per_s["end_to_end"]).batch_size,
        stopped=stopped,
    )


def _is_past_its_best(rows: Sequence[BenchResult]) -> bool:
    """Whether the last two sizes were no faster than those before."""
    speeds = [row.images_per_s["end_to_end"] for row in rows]
    return len(speeds) > 2 and max(speeds[-2:]) < max(speeds[:-2])


def _expected_memory(rows: Sequence[BenchResult], size: int) -> float:
    """Bytes that a batch of ``size`` will need, extrapolated from the last two measured."""
    last = rows[-1]
    before = (rows[-2].batch_size, rows[-2].peak_memory_gb) if len(rows) > 1 else (0, 0.0)
    slope = (last.peak_memory_gb - before[1]) / (last.batch_size - before[0])
    return (last.peak_memory_gb + max(0.0, slope) * (size - last.batch_size)) * 1e9


def _memory(config: RunConfig) -> float:
    """Bytes of this machine's memory that may be filled; a GPU says by itself when it is full."""
    if config.run.device not in {"auto", "cpu"} or torch.cuda.is_available():
        return float("inf")
    try:
        return 0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return float("inf")


def _taking(
    trainer: Trainer, method: Method[Any, Any], batches: Iterator[TrainBatch], steps: int
) -> Callable[[], object]:
    """A task that takes some optimizer steps."""

    def take() -> None:
        # Reports stay unread, as in training: reading one would stop a GPU after each step.
        deque(
            islice(
                train(method, batches, trainer.optimizer, trainer.schedule, trainer.scaler), steps
            ),
            maxlen=0,
        )

    return take


def _interleaved(
    tasks: dict[str, Callable[[], object]], rounds: int, device: torch.device, console: Console
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each task in each round, after one round that is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    with console.status("measuring") as status:
        for number in range(rounds + 1):
            for name, task in tasks.items():
                status.update(f"round {number}/{rounds}: {name}")
                wall, cpu = time.perf_counter(), cpu_seconds()
                task()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if number:
                    times[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    return times


def cpu_seconds() -> float:
    """CPU time of this process and of its living children (the loader's workers), user and system,
    in seconds.
    """
    total = time.process_time()
    here = os.getpid()
    for stat in Path("/proc").glob(
        "[0-9]*/stat"
    ):  # nothing elsewhere than on Linux: there only this process counts
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == here:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
