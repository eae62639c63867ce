"""Work on a list divided among processes: each takes a part, the first one gets all results.

The parts are consecutive, so results joined in the order of the ranks are in the order of the list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor, distributed

from ssltool.console import stderr_console
from ssltool.distributed.collectives import is_main, rank, world_size
from ssltool.distributed.process_group import process_group
from ssltool.distributed.signals import terminated_in_order

T = TypeVar("T")
_PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PATIENCE = timedelta(days=7)  # parts of equal size may take hours longer on one host than another


@contextmanager
def divided_work(console: Console | None = None) -> Iterator[Console]:
    """Join the processes that torchrun started, for work that each does a part of.

    Args:
        console: Where progress goes; stderr if not given.

    Yields:
        The console; of several processes only the first one prints.

    Raises:
        ProcessLost: Another process ended.
    """
    console = console or stderr_console()
    with terminated_in_order(), process_group(_PATIENCE, "type the same command again"):
        yield console if is_main() else stderr_console(quiet=True)


@contextmanager
def alone() -> Iterator[None]:
    """Inside of the block this process is the only one there is: what it calls makes no collective
    calls, and has all the cores. For the first one, when the others wait for it.
    """
    hidden = {name: os.environ.pop(name) for name in _PROCESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def own_part(count: int, block: int = 1) -> range:
    """The indices of a list that this process works on.

    Args:
        count: Length of the list.
        block: Indices that are worked on together: blocks are whole, and the same in any number of
            processes.
    """
    blocks = -(-count // block)
    first, last = (blocks * r // world_size() * block for r in (rank(), rank() + 1))
    return range(min(first, count), min(last, count))


def gathered(own: T) -> list[T]:
    """In the first process the values of JSON kinds of all, in the order of their ranks; in the
    others none.
    """
    values = [own] if is_main() else []
    text = torch.frombuffer(bytearray(json.dumps(own).encode()), dtype=torch.uint8)
    send_to_main([text], lambda data: values.append(json.loads(data.numpy().tobytes())))
    return values


def send_to_main(own: Iterable[Tensor], take: Callable[[Tensor], object]) -> None:
    """Hand the tensors of every other process to the first one, in the order of the ranks.

    One tensor is on its way at a time, so that memory does not grow with their number.

    Args:
        own: Tensors on the host, of this process; those of the first process are its own already.
        take: Called in the first process with the bytes of each tensor, uint8 ``[n]``.
    """
    if world_size() == 1:
        return
    if is_main():
        for source in range(1, world_size()):
            while (size := _receive_size(source)) >= 0:
                data = torch.empty(size, dtype=torch.uint8)
                distributed.recv(data, source)
                take(data)
    else:
        for tensor in own:
            data = tensor.contiguous().view(torch.uint8).flatten()
            distributed.send(torch.tensor(len(data)), 0)
            distributed.send(data, 0)
        distributed.send(torch.tensor(-1), 0)
    distributed.barrier()  # who has sent all stays until it was received


def _receive_size(source: int) -> int:
    size = torch.tensor(0)
    distributed.recv(size, source)
    return int(size)
