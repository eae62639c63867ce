"""Who we are among several processes. In one process each function does nothing."""

from __future__ import annotations

import os


def rank() -> int:
    """Index of this process, 0 to ``world_size() - 1``; torchrun sets it, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the one process that prints and writes files."""
    return rank() == 0
