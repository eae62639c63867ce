"""Start-up times: commands without torch (target 0.3 s), and the way to the first training step.

    python benchmarks/startup.py [--runs 9] [--json] [--step FOLDER]

Each command is a fresh process, interleaved with ``python -c pass``; medians of wall time and of
user + system time. ``--step`` also times, beside ``import torch`` and torch with one of its
optimizers (which imports torch's compiler), a run of jigsaw on a folder up to its first step.
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
OPTIMIZER = "import torch; torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])"
FIRST_STEP = """
import os, sys, tempfile
from ssltool.cli import run
from ssltool.training import trainer
steps = trainer.Trainer.steps
def first(self):
    for _ in steps(self):
        os._exit(0)
trainer.Trainer.steps = first
words = "pretrain jigsaw --preset small --image-size 48 --steps 1 --workers 0 --quiet --data"
run([*words.split(), sys.argv[1], "--out", os.path.join(tempfile.mkdtemp(), "run")])
"""


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
    parser.add_argument("--step", metavar="FOLDER")
    args = parser.parse_args()
    commands = dict(COMMANDS)
    if args.step:
        commands["import torch"] = [sys.executable, "-c", "import torch"]
        commands["torch, an optimizer"] = [sys.executable, "-c", OPTIMIZER]
        commands["torchvision"] = [sys.executable, "-c", "import torchvision"]
        commands["first step"] = [sys.executable, "-c", FIRST_STEP, args.step]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(args.runs + 1):  # the first fills the caches and is not counted
        for name, command in commands.items():
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
        print(f"{name:<20} {row['wall_s']:.3f} s wall  {row['cpu_s']:.3f} s CPU")


if __name__ == "__main__":
    main()
