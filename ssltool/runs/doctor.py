"""What this machine can do."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import ssltool
from ssltool.data.loader import usual_workers
from ssltool.device import best_device
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


def doctor() -> dict[str, Any]:
    """Run ``ssltool doctor``.

    Returns:
        Versions of everything installed, the device and what ``--precision auto`` would choose,
        cores, workers.
    """
    device = best_device()
    encoder = build_encoder("resnet10_w32", stem="small").to(
        device, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    precision = choose_precision("auto", encoder, 32, 3, device)
    return {
        "ssltool": ssltool.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "gpus": torch.cuda.device_count(),
        "precision": f"{precision.name} ({precision.reason})",
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "workers": usual_workers(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
