"""Versions and the machine, as a run records them."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import torchvision


def environment(device: torch.device) -> dict[str, str]:
    """Versions of Python and of the libraries that decide results, the platform, and what decides
    the last bits: the machine, the device and the number of threads.
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "machine": f"{platform.machine()} {_processor()}".strip(),
        "device": gpu,
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")
