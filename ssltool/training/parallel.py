"""Training in several processes: how they meet, on which device each works, and what it looks like when one dies."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn

from ssltool.distributed import launched, local_rank, local_world_size, world_size
from ssltool.errors import Interrupted, ProcessLost, UsageError
from ssltool.training.device import best_device

Network = TypeVar("Network", bound=nn.Module)

_PATIENCE = timedelta(minutes=30)  # how long processes wait for one that saves, draws or probes
_BROKEN = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|timed? ?out", re.IGNORECASE)


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes that torchrun started, for the length of a block; alone, do nothing.

    Tensors on the host travel by gloo, those on a GPU by NCCL.

    Raises:
        ProcessLost: Another process ended, so that this one cannot go on.
    """
    if not launched() or world_size() == 1:
        yield
        return
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
        yield
    except Interrupted:  # in all of them after the same step
        distributed.destroy_process_group()
        raise
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or _BROKEN.search(str(error)):
            raise ProcessLost(
                "another process of the run has ended; type the same command with --resume to go on from the last "
                "checkpoint"
            ) from error
        raise
    # After an error nothing is torn down in order: others may be waiting in the middle of a call.
    distributed.destroy_process_group()


def restarts() -> tuple[int, int]:
    """How often torchrun has started this process again, and how often it may."""
    done, allowed = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(done), int(allowed)


def choose_device(name: str) -> torch.device:
    """The device of this process: with several of them on a machine, each gets a GPU of its own.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UsageError: There are more processes than GPUs, or the device cannot be used by several processes.
    """
    device = best_device() if name == "auto" else torch.device(name)
    if world_size() == 1:
        return device
    if device.type == "mps":
        if name == "auto":
            return torch.device("cpu")
        raise UsageError("several processes cannot share the one GPU of a Mac; type --device cpu, or --devices 1")
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if local_world_size() > found:
            raise UsageError(
                f"{local_world_size()} processes on a machine with {found} GPUs; type --devices {max(1, found)}, or "
                "--device cpu"
            )
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    return device


def synchronize_batch_norm(method: nn.Module, device: torch.device) -> None:
    """Let batch norm use the statistics of all processes' batches; with one process there is nothing to do.

    Raises:
        UsageError: torch has no such layer for this device.
    """
    if world_size() == 1:
        return
    if device.type != "cuda":
        raise UsageError(
            f"--sync-batchnorm: torch synchronises batch norm on CUDA only, not on {device.type}; drop it, and each "
            "process normalises by its own batch"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]


def copy_alone(network: Network) -> Network:
    """A copy of a network for this process alone: its batch norm does not wait for other processes."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # the same parameters and buffers, and nothing else
    return copied
