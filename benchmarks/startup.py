"""Start-up time of ``ssltool --help`` and ``ssltool methods``; target 0.3 s, without torch.

    python benchmarks/startup.py [--runs 9] [--json]

Each command is a fresh process, interleaved with ``python -c pass``; medians of wall time and of
user + system time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "ssltool --help": [sys.executable, "-m", "ssltool", "--help"],
    "ssltool methods": [sys.executable, "-m", "ssltool", "methods"],
}


def measure(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return time.perf_counter() - start, spent


def main() -> None:
    """Print a table or a JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(args.runs + 1):  # the first fills the caches and is not counted
        for name, command in COMMANDS.items():
            times[name].append(measure(command))
    result = {
        name: {
            "wall_s": statistics.median(w for w, _ in runs[1:]),
            "cpu_s": statistics.median(c for _, c in runs[1:]),
        }
        for name, runs in times.items()
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for name, row in result.items():
        print(f"{name:<16} {row['wall_s']:.3f} s wall  {row['cpu_s']:.3f} s CPU")


if __name__ == "__main__":
    main()
