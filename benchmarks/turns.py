"""Interleaved timing of tasks, each in its own process.

A process prepares its task, runs it once whenever it is asked to, and replies with the CPU-seconds.
Sides therefore share no threads, caches and freed memory.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from ssltool.training.memory import keep_freed_memory

Task = Callable[[], Mapping[str, float] | None]
"""Runs once; may return CPU-seconds of parts of it, by name."""

_WARM_UP = 4  # first rounds, not counted


def take_turns(
    sides: Mapping[str, Callable[[], Task]],
    rounds: int,
    ours: frozenset[str] = frozenset({"ssltool"}),
) -> dict[str, float]:
    """Median CPU-seconds of each side's task and of its named parts.

    Args:
        sides: Name -> function that prepares the task in the process of that side; picklable.
        rounds: Timed runs of each task.
        ours: Sides that keep freed memory, like the ``ssltool`` command.

    Raises:
        SystemExit: The process of a side ended.
    """
    context = multiprocessing.get_context("spawn")
    processes, ends = [], {}
    for name, begin in sides.items():
        ends[name], end = context.Pipe()
        processes.append(
            context.Process(target=_serve, args=(begin, end, name in ours), daemon=True)
        )
        processes[-1].start()
        end.close()  # else nobody would hear of a process that ends
    taken: dict[str, list[float]] = {}
    for number in range(rounds + _WARM_UP):
        for name, turns in ends.items():
            try:
                turns.send(True)
                whole, parts = turns.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise SystemExit(f"{name}: its process ended, see above") from None
            if number >= _WARM_UP:
                for part, seconds in {name: whole, **parts}.items():
                    taken.setdefault(part, []).append(seconds)
    for turns, process in zip(ends.values(), processes, strict=True):
        turns.send(False)
        process.join()
    return {name: median(seconds) for name, seconds in taken.items()}


def collated(images: Dataset[Any], batch: int) -> Task:
    """A batch of a per-sample dataset, in random order: read, transformed and collated."""
    indices: list[int] = []

    def once() -> None:
        nonlocal indices
        samples = []
        for _ in range(batch):
            indices = indices or random.sample(range(len(images)), len(images))  # type: ignore[arg-type]
            samples.append(images[indices.pop()])
        default_collate(samples)

    return once


def _serve(begin: Callable[[], Task], turns: Connection, keep: bool) -> None:
    """One process: prepare the task, then run it on request."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    task = begin()
    while turns.recv():
        start = time.process_time()
        parts = task()
        turns.send((time.process_time() - start, dict(parts or {})))
