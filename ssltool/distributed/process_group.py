"""The process group of a run: rendezvous, elastic restarts, and the loss of a process."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ssltool.distributed.collectives import launched, rank, world_size
from ssltool.distributed.parent import end_with_parent
from ssltool.errors import Interrupted, ProcessLost, UsageError

_PATIENCE = timedelta(minutes=30)  # how long processes wait for one that saves, draws or probes
_RENDEZVOUS = timedelta(minutes=5)  # how long they wait for each other at the start
_ORPHANED = 120.0  # seconds a process has to save and leave after its launcher has died
_BACKENDS = "cpu:gloo,cuda:nccl"
_BROKEN = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|timed? ?out", re.IGNORECASE
)


@contextmanager
def process_group(
    patience: timedelta = _PATIENCE,
    advice: str = "type the same command with --resume to continue from the last checkpoint",
) -> Iterator[int]:
    """Join the processes that torchrun started, for the length of a block; alone, do nothing.

    Tensors on the host travel by gloo, those on a GPU by NCCL. A process group that is initialized
    already, as Ray Train does it, is used and left as it is.

    Args:
        patience: How long processes wait for each other.
        advice: What to type when a process was lost.

    Yields:
        How often torchrun has started the processes again.

    Raises:
        ProcessLost: Another process ended, so that this one cannot continue.
        UsageError: The process group that is there cannot be used.
    """
    started_again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not launched() or world_size() == 1:
        yield started_again
        return
    joined = not distributed.is_initialized()
    try:
        if joined:
            started_again = _join(started_again, patience)
        else:
            _check_joined()
        yield started_again
    except Interrupted:  # in all of them after the same step
        if joined:
            distributed.destroy_process_group()
        raise
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or _BROKEN.search(str(error)):
            raise ProcessLost(f"another process of the run has ended; {advice}") from error
        raise
    # After an error nothing is torn down in order: others may be waiting in the middle of a call.
    if joined:
        distributed.destroy_process_group()


def _join(started_again: int, patience: timedelta) -> int:
    """Initialize the process group; how often torchrun has started the processes again."""
    end_with_parent(os.getppid(), patience=_ORPHANED)
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    store, restarts = rendezvous_ranks(store, rank(), world_size(), started_again)
    distributed.init_process_group(
        _BACKENDS if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank(),
        world_size=world_size(),
        timeout=patience,
    )
    return restarts


def _check_joined() -> None:
    """Refuse a process group, initialized by others, that cannot be used.

    Raises:
        UsageError: Values on the host cannot be exchanged, or ranks are not in the environment.
    """
    own, said = (distributed.get_rank(), distributed.get_world_size()), (rank(), world_size())
    missing = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} - os.environ.keys()
    if missing or own != said:
        raise UsageError(
            f"the process group has rank {own[0]} of {own[1]}, the environment "
            + (f"no {min(missing)}" if missing else f"rank {said[0]} of {said[1]}")
            + "; set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE as torchrun does"
        )
    backends = distributed.get_backend_config()
    if "cpu:" not in backends:
        raise UsageError(
            f"the process group communicates by {backends} alone; initialize it with the backend "
            f"{_BACKENDS}, by which values on the host are exchanged too"
        )


def rendezvous_ranks(
    store: Store, rank: int, world: int, started_again: int, patience: timedelta = _RENDEZVOUS
) -> tuple[Store, int]:
    """Rendezvous of the processes that are alive now, in an unused part of the store.

    torchrun's agents keep one store as long as they run. In it, a restarted process would find the
    addresses that its peers had before they were restarted. So each process registers under a new
    name, process 0 publishes all the names it sees until every process has found its own among
    them, and these names identify the rendezvous.

    Args:
        store: That of the agents.
        rank: Of this process.
        world: Number of processes.
        started_again: How often this process's own agent has started it again after a failure.
        patience: How long to wait for the others.

    Returns:
        The part of the store, and how often the processes have been started again: an agent does
        not count when it starts a process again because one of another host failed.

    Raises:
        ProcessLost: The others did not join.
    """
    own = f"{uuid.uuid4().hex}:{started_again}"
    store.set(f"ssltool/here/{rank}", own)
    deadline = time.monotonic() + patience.total_seconds()
    while time.monotonic() < deadline:
        registered = [f"ssltool/here/{each}" for each in range(world)]
        if rank == 0 and store.check(registered):
            store.set("ssltool/names", " ".join(store.get(key).decode() for key in registered))
        names = store.get("ssltool/names").decode() if store.check(["ssltool/names"]) else ""
        if own in names.split():  # else they are those of an earlier rendezvous
            group = f"ssltool/{hashlib.sha256(names.encode()).hexdigest()}"
            store.set(f"{group}/{rank}", "here")
            if rank == 0 and store.check([f"{group}/{each}" for each in range(world)]):
                store.set(f"{group}/begun", str(store.add("ssltool/rendezvous", 1)))
            if store.check([f"{group}/begun"]):
                before = int(store.get(f"{group}/begun")) - 1
                counted = max(int(name.partition(":")[2]) for name in names.split())
                return PrefixStore(group, store), max(before, counted)
        time.sleep(0.02)
    raise ProcessLost(
        f"the other processes of the run did not join within {patience.total_seconds():.0f} s; "
        "check that all hosts run, and type the same command with --resume"
    )
