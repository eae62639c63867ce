"""Freed memory stays with the process, so that the next tensor of the size costs no page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, statistics, torch
from ssltool.memory import keep_freed_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    before = faults()
    torch.empty(16_000_000).fill_(1.0)  # 64 MB
    return faults() - before
# A stray block may now and then lie in the way of a fill, so the usual one is what counts.
def usual():
    return int(statistics.median(fill() for _ in range(15)))
before = usual()
assert keep_freed_memory()
print(before, usual())
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="glibc only")
def test_kept_memory_is_used_again() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env=environment)
    freed, kept = map(int, done.stdout.split())
    assert freed > 20  # 31 huge pages or 15,625 small ones; else this test shows nothing
    assert kept < freed / 4
