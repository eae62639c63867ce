"""Versions and platform, as a run records them."""

from __future__ import annotations

import platform

import torch
import torchvision


def environment() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results, and the platform."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
    }
