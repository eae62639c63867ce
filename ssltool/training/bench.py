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

from ssltool.data.sources.registry import open_source
from ssltool.errors import SslToolError
from ssltool.methods.base import Loss, Method, Metric
from ssltool.runs.config import RunConfig
from ssltool.training.loop import TrainBatch, train
from ssltool.training.start import new_run
from ssltool.training.trainer import Trainer, peak_memory


class _ReadyView(nn.Module):
    """A method with a fixed view: what is left of a step is the bare network."""

    def __init__(self, method: Method[Any, Any], view: Any) -> None:
        super().__init__()
        self.method = method
        self._view = view

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Any:
        """The ready view, whatever the batch."""
        del images, index, generator
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


def bench(
    config: RunConfig, *, rounds: int = 5, steps: int = 4, console: Console | None = None
) -> dict[str, Any]:
    """Measure training throughput; nothing is written.

    Args:
        config: Method and options, as for `ssltool.training.pretrain.pretrain`.
        rounds: Repeats of the four measurements, interleaved.
        steps: Steps in each.
        console: Where progress goes.

    Returns:
        ``images_per_s`` and ``images_per_cpu_s`` of ``loader, view, bare, end_to_end``; ``ratio``
        of end to end to bare by CPU-seconds and ``ratio_wall``; ``peak_memory_gb``; the resolved
        options.
    """
    console = console or Console(stderr=True, highlight=False)
    if (
        config.run.workers is None
        and config.run.device in {"auto", "cpu"}
        and not torch.cuda.is_available()
    ):
        # Workers decode ahead, during the other measurements; in this process the cost stays where
        # it belongs.
        config = config.with_run(workers=0)
    # Every image is decoded in every pass: a cache filled by the warm-up would flatter the loader.
    trainer = Trainer.build(new_run(config), console, cache_bytes=0)
    with trainer.batches:
        stream = trainer.batches.from_step(0)
        first = next(stream)
        generator = torch.Generator().manual_seed(trainer.schedule.seed)
        method = trainer.method.train()
        view = method.view(first.images, first.indices, generator)
        ready = cast("Method[Any, Any]", _ReadyView(method, view))
        tasks: dict[str, Callable[[], object]] = {
            "view": lambda: [
                method.view(first.images, first.indices, generator) for _ in range(steps)
            ],
            "bare": _taking(trainer, ready, repeat(first), steps),
            # What workers made ready during the other measurements does not count: the loader is
            # timed when that is used up, and the whole when the workers are as far ahead as they
            # are in a long run.
            "emptying": lambda: deque(islice(stream, trainer.batches.ahead), maxlen=0),
            "loader": lambda: deque(islice(stream, steps), maxlen=0),
            "settling": _taking(trainer, method, stream, trainer.batches.ahead),
            "end_to_end": _taking(trainer, method, stream, steps),
        }
        times = _interleaved(tasks, rounds, trainer.device, console)
    images = steps * trainer.schedule.accumulate * len(first.indices)
    result: dict[str, Any] = {"method": config.method, "images_per_s": {}, "images_per_cpu_s": {}}
    for name in ("loader", "view", "bare", "end_to_end"):
        pairs = times[name]
        seen = images if name in {"bare", "end_to_end"} else steps * len(first.indices)
        result["images_per_s"][name] = seen / statistics.median(wall for wall, _ in pairs)
        result["images_per_cpu_s"][name] = seen / max(
            1e-9, statistics.median(cpu for _, cpu in pairs)
        )
    result["ratio"] = statistics.median(
        bare[1] / whole[1] for bare, whole in zip(times["bare"], times["end_to_end"], strict=True)
    )
    result["ratio_wall"] = statistics.median(
        bare[0] / whole[0] for bare, whole in zip(times["bare"], times["end_to_end"], strict=True)
    )
    result["peak_memory_gb"] = round(peak_memory(trainer.device) / 1e9, 2)
    result["rounds"], result["steps"] = rounds, steps
    result["precision"] = trainer.schedule.precision.name
    result["options"] = trainer.config.options()
    return result


def sweep(
    config: RunConfig,
    sizes: Sequence[int] | None = None,
    *,
    rounds: int = 3,
    steps: int = 2,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure which batch sizes fit into memory, and which is the fastest.

    Args:
        config: Method and options.
        sizes: Batch sizes to try, rising; if None, doubled from 16 until the memory or the images
            run out or, on a CPU, two sizes in a row are no faster.
        rounds: Repeats at each size.
        steps: Steps in each.
        console: Where progress goes.

    Returns:
        ``sweep``: a row for each size that fits, as `bench` gives it without options, with
        ``batch_size``; ``largest`` and ``fastest`` of them by images per second, end to end;
        ``stopped``: why no larger one was tried.

    Raises:
        SslToolError: Not even the smallest size fits.
    """
    console = console or Console(stderr=True, highlight=False)
    rows: list[dict[str, Any]] = []
    images, stopped = len(open_source(config.run.data)), "all sizes asked for were tried"
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
            result = bench(
                config.with_run(batch_size=size), rounds=rounds, steps=steps, console=console
            )
        except torch.OutOfMemoryError:
            stopped = f"the device ran out of memory with a batch of {size}"
            torch.cuda.empty_cache()
            break
        del result["options"]
        rows.append({"batch_size": size, **result})
        speeds = [row["images_per_s"]["end_to_end"] for row in rows]
        if (
            sizes is None
            and not torch.cuda.is_available()
            and len(rows) > 2
            and max(speeds[-2:]) < max(speeds[:-2])
        ):
            stopped = "two sizes in a row were no faster"
            break
    if not rows:
        raise SslToolError(
            f"no batch size can be measured: {stopped}; give smaller ones to --sweep, or more "
            "images"
        )
    fastest = max(rows, key=lambda row: float(row["images_per_s"]["end_to_end"]))
    return {
        "method": config.method,
        "sweep": rows,
        "largest": rows[-1]["batch_size"],
        "fastest": fastest["batch_size"],
        "stopped": stopped,
    }


def _expected_memory(rows: Sequence[dict[str, Any]], size: int) -> float:
    """Bytes that a batch of ``size`` will need, on the line through the last two that were
    measured.
    """
    last, before = rows[-1], rows[-2] if len(rows) > 1 else {"batch_size": 0, "peak_memory_gb": 0.0}
    slope = (last["peak_memory_gb"] - before["peak_memory_gb"]) / (
        last["batch_size"] - before["batch_size"]
    )
    return float(last["peak_memory_gb"] + max(0.0, slope) * (size - last["batch_size"])) * 1e9


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
