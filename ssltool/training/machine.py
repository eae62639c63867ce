"""What a resumed run has in common with the machine it began on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console

from ssltool.device import THREADS
from ssltool.runs.environment import environment
from ssltool.runs.records import RunRecord

_DECISIVE = ("machine", "device", "torch", "threads")  # of equal bytes


@contextmanager
def as_it_began(record: RunRecord | None, device: torch.device, console: Console) -> Iterator[None]:
    """Compute with the number of threads that a run began with, for the length of a block, and say
    what else differs: sums are then rounded otherwise.

    ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` in the environment take precedence.

    Args:
        record: Of the run that is resumed; None for a new one.
        device: Where it computes.
        console: Where differences are printed.
    """
    before = torch.get_num_threads()
    began = record.environment if record else {}
    chosen = any(name in os.environ for name in THREADS)
    if not chosen and began.get("threads", "").isdecimal():
        torch.set_num_threads(max(1, int(began["threads"])))
    now = environment(device)
    other = [key for key in _DECISIVE if key in began and began[key] != now.get(key)]
    if other:
        then, here = (
            ", ".join(f"{key} {values.get(key, 'unknown')}" for key in other)
            for values in (began, now)
        )
        console.print(
            f"note: the run began with {then}, now {here}: its last bytes may differ from those of "
            "a run that was not interrupted"
        )
    try:
        yield
    finally:
        torch.set_num_threads(before)
