"""Freed memory stays with the process, so that the next tensor of the size costs no page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, statistics, torch
from ssltool.training.memory import keep_freed_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    before = faults()
    torch.empty(10_000_000).fill_(1.0)  # 40 MB
    return faults() - before
def usual(times):
    return int(statistics.median([fill() for _ in range(times)][-9:]))
before = usual(9)
assert keep_freed_memory()
print(before, usual(30))  # until the heap has grown, stray blocks lie in the way of the first fills
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="glibc only"
)
def test_kept_memory_is_used_again() -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    freed, kept = map(int, done.stdout.split())
    assert freed > 12  # 19 huge pages or 9,765 small ones; else this test shows nothing
    assert kept < freed / 4
