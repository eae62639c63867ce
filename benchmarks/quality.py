"""What each method learns on each data set at one budget of CPU time: a table with standard errors.

    python benchmarks/quality.py --set letters=LETTERS --set clipart=CLIPART --minutes 40 --to DIR
        [--methods jigsaw,npid] [--seeds 0,1] [--labels 0.01,0.1] [--peers simclr] [--report FILE]

A set is a folder with train/CLASS/* and test/CLASS/*. For each set, method and seed the encoder is
pretrained on the training images without labels for so many minutes of CPU time on one thread, and
probed: linear and kNN on pooled features, linear on every stage, beside random init, raw pixels and
the majority class; with --labels also frozen, fine-tuned and trained from scratch on some of the
labels. ``scratch`` trains on all labels for the same time.

Each result is a JSON document in DIR/cells, written when it is complete; the command can be stopped
at any time and repeated, with other sets, methods or seeds, and does only what is missing. Runs are
resumed from their checkpoints. Steps are computed from a few that are timed in CPU seconds, so that
other jobs on the machine change nothing but the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

METHODS = ("jigsaw", "context-prediction", "context-encoder", "colorization", "npid", "cpc")
GRAY = {"fashion"}  # sets without color, which colorization refuses
PEER = Path(__file__).parent / "peers.py"


class Cell(NamedTuple):
    """One result: a method, or a peer, on a set with a seed."""

    dataset: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.dataset}-{self.method}-{self.seed}"


class Used(NamedTuple):
    """What a command used."""

    cpu: float
    memory: float
    output: str


def command(words: Sequence[object], cwd: Path) -> Used:
    """Run a command on one thread; its standard output, CPU seconds and peak memory in bytes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log = cwd / "log.txt"
    with log.open("a") as errors:
        process = subprocess.Popen(
            list(map(str, words)), stdout=subprocess.PIPE, stderr=errors, env=env, text=True
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed, see {log}")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0, output)


def steps_for(cell: Cell, train: Path, seconds: float, options: Sequence[str]) -> int:
    """Steps that take a number of CPU seconds on one thread, timed in a process of its own."""
    words = [sys.executable, __file__, "--time", cell.method, str(train), f"{seconds}", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def time_steps(method: str, train: str, seconds: float, options: Sequence[str]) -> None:
    """Print how many steps fit into CPU seconds."""
    from rich.console import Console

    from ssltool.runs.config import RunConfig
    from ssltool.training import budget, start

    given = dict(option.lstrip("-").split("=", 1) for option in options)
    typed = {name.replace("-", "_"): value for name, value in given.items()}
    config = RunConfig.merged(method, {**typed, "data": (train,), "workers": 0}, "small")
    source = start.open_images(config)
    config, data = budget.cheapest(config, start.inspected(config, source))
    pace = budget.time_steps(
        config, data, source, Console(quiet=True), clock=time.process_time, seconds=20.0, most=60
    )
    print(pace.steps(seconds))


def run_method(cell: Cell, folder: Path, train: Path, seconds: float, options: list[str]) -> Used:
    """Pretrain, or continue to; the record of what all attempts used is kept beside the run."""
    run, spent = folder / "run", folder / "spent.json"
    before = json.loads(spent.read_text()) if spent.exists() else {"cpu": 0.0, "memory": 0.0}
    words: list[object] = [sys.executable, "-m", "ssltool", "pretrain", cell.method, "--out", run]
    if (run / "run.json").exists():
        words += ["--resume"]
    else:
        steps = steps_for(cell, train, seconds, options)
        words += ["--preset", "small", "--data", train, "--steps", steps, "--seed", cell.seed]
        words += ["--workers", 0, *(part for option in options for part in option.split("=", 1))]
        if not any(option.startswith("--image-size") for option in options):
            words += ["--image-size", _size(cell, train)]
    used = command([*words, "--quiet"], folder)
    cpu, memory = before["cpu"] + used.cpu, max(before["memory"], used.memory)
    spent.write_text(json.dumps({"cpu": cpu, "memory": memory}))
    return Used(cpu, memory, "")
