"""Selecting the device to compute on: one GPU per process."""

from __future__ import annotations

import os
import warnings

import torch

from ssltool.cores import available_cores
from ssltool.distributed.collectives import local_rank, local_world_size, world_size
from ssltool.errors import UsageError
from ssltool.options import DeviceName

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the environment by which a user chooses the number of threads."""


def use_available_cores() -> None:
    """Compute with no more threads than the quota of this process's container has cores, unless
    the environment chooses.
    """
    if not any(name in os.environ for name in THREADS):
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def repeat_exactly(device: torch.device) -> None:
    """Make a GPU compute deterministically, so that a resumed run ends with the same bytes.

    By default a GPU adds in the order in which its threads arrive. Deterministic training of a
    ResNet-50 is as fast.
    """
    if device.type != "cuda":
        return
    # Read when the first matrix product is computed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # which kernel is the fastest differs from run to run
    torch.use_deterministic_algorithms(True, warn_only=True)
    # torch would name operations without a deterministic version; tests/test_cuda.py compares the
    # bytes instead.
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    # A debugging aid that costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def best_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_device(name: DeviceName) -> torch.device:
    """The device of this process: with several of them on a machine, each gets a GPU of its own.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UsageError: There is no such device, there are more processes than GPUs, or several cannot
            share the device.
    """
    use_available_cores()
    if (name == "cuda" and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    ):
        raise UsageError(
            f"--device {name}: torch finds none here, see 'ssltool doctor'; type --device auto "
            "or cpu"
        )
    device = best_device() if name == "auto" else torch.device(name)
    if world_size() == 1:
        return device
    if device.type == "mps":
        if name == "auto":
            return torch.device("cpu")
        raise UsageError(
            "several processes cannot share the one GPU of a Mac; type --device cpu, or --devices 1"
        )
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if local_world_size() > gpus:
            raise UsageError(
                f"{local_world_size()} processes on a machine with {gpus} GPUs; type --devices "
                f"{max(1, gpus)}, or --device cpu"
            )
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    return device
