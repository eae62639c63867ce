"""Tasks that are compared take turns, each in a process of its own, as each would run by itself.

A process is told how to begin, and then, whenever its turn comes, does its task once and answers
with the CPU-seconds. One side's threads, caches and freed memory are thus not the other's.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from statistics import median

import torch

from ssltool.training.memory import keep_freed_memory

Task = Callable[[], Mapping[str, float] | None]
"""Does its work once; may return CPU-seconds of parts of it, by name."""

_WARM_UP = 4  # first rounds, not counted


def take_turns(
    sides: Mapping[str, Callable[[], Task]],
    rounds: int,
    ours: frozenset[str] = frozenset({"ssltool"}),
) -> dict[str, float]:
    """Median CPU-seconds of each side's task, and of the parts they name.

    Args:
        sides: By name, what prepares a task in the process of that side; has to be importable, with
            its arguments.
        rounds: How often each task is timed.
        ours: Sides that keep freed memory, as the ``ssltool`` command does.
    """
    context = multiprocessing.get_context("spawn")
    processes, ends = [], {}
    for name, begin in sides.items():
        ends[name], end = context.Pipe()
        processes.append(
            context.Process(target=_serve, args=(begin, end, name in ours), daemon=True)
        )
        processes[-1].start()
    taken: dict[str, list[float]] = {}
    for number in range(rounds + _WARM_UP):
        for name, turns in ends.items():
            turns.send(True)
            whole, parts = turns.recv()
            if number >= _WARM_UP:
                for part, seconds in {name: whole, **parts}.items():
                    taken.setdefault(part, []).append(seconds)
    for turns, process in zip(ends.values(), processes, strict=True):
        turns.send(False)
        process.join()
    return {name: median(seconds) for name, seconds in taken.items()}


def _serve(begin: Callable[[], Task], turns: Connection, keep: bool) -> None:
    """One process: prepare, then work whenever it is told to."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    task = begin()
    while turns.recv():
        start = time.process_time()
        parts = task()
        turns.send((time.process_time() - start, dict(parts or {})))
