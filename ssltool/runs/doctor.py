"""Versions, device, compute precision and cores of this machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from pydantic import BaseModel, ConfigDict

import ssltool
from ssltool.cores import available_cores
from ssltool.data.workers import default_workers
from ssltool.encoders.precision import choose_precision
from ssltool.encoders.registry import build_encoder

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "safetensors",
    "pydantic",
    "typer",
    "rich",
    "matplotlib",
)


class MachineReport(BaseModel):
    """What `doctor` reports.

    Attributes:
        ssltool: Version of ssltool.
        python: Version of Python.
        platform: Operating system and architecture.
        packages: Version by name; None if a package is not installed.
        device: Name of the device.
        gpus: Number of CUDA devices.
        precision: What ``--precision auto`` chooses on the device, and why.
        cores: Cores that this process may use.
        torch_threads: Threads that torch computes with.
        workers: Default number of processes that decode images.
    """

    model_config = ConfigDict(frozen=True)

    ssltool: str
    python: str
    platform: str
    packages: dict[str, str | None]
    device: str
    gpus: int
    precision: str
    cores: int
    torch_threads: int
    workers: int


def doctor(device: torch.device) -> MachineReport:
    """Report versions and what a run on a device would use.

    Args:
        device: The device that precision is measured on.
    """
    encoder = build_encoder("resnet10_w32", stem="small").to(device)
    encoder.to(memory_format=torch.channels_last)
    precision = choose_precision("auto", encoder, 32, 3, device)
    return MachineReport(
        ssltool=ssltool.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _version(name) for name in _PACKAGES},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        gpus=torch.cuda.device_count(),
        precision=f"{precision.name} ({precision.reason})",
        cores=available_cores(),
        torch_threads=torch.get_num_threads(),
        workers=default_workers(),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
