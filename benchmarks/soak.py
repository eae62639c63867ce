"""Memory, open files, threads and shared memory over thousands of steps of one run.

    python benchmarks/soak.py [--steps 5000] [--method jigsaw] [--workers 1] [--json]

A real run on small demo images, with checkpoints, figures and online kNN evaluation. After every
250 steps the process and its decoding processes are measured; Linux only. Expected: nothing grows
once the first quarter of the run has passed. The exit code is 1 if something does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ssltool.runs.config import RunConfig
from ssltool.training.loop import StepReport
from ssltool.training.memory import keep_freed_memory
from ssltool.training.pretrain import pretrain
from ssltool.training.trainer import Trainer

EVERY = 250
SLACK = {"rss_mb": 25.0, "shared_mb": 1.0, "files": 0.0, "threads": 0.0, "processes": 0.0}
"""Growth from the second quarter to the last one that is not taken for a leak."""


def measured() -> dict[str, float]:
    """Resident and shared memory in MB, open files, threads and processes: of this process and its
    children.
    """
    status = [_status(pid) for pid in (os.getpid(), *_children(os.getpid()))]
    return {
        "rss_mb": sum(fields["VmRSS"] for fields in status) / 1024,
        "shared_mb": sum(fields["RssShmem"] for fields in status) / 1024,
        "files": sum(fields["files"] for fields in status),
        "threads": sum(fields["Threads"] for fields in status),
        "processes": len(status),
    }


def _status(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    numbers = {name: float(fields[name].split()[0]) for name in ("VmRSS", "RssShmem", "Threads")}
    return {**numbers, "files": len(os.listdir(f"/proc/{pid}/fd"))}


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def soak(method: str, steps: int, workers: int) -> list[dict[str, float]]:
    """Train, and measure after every 250 steps."""
    rows: list[dict[str, float]] = []
    began, original = time.monotonic(), Trainer.steps

    def watched(trainer: Trainer) -> Iterator[StepReport]:
        for report in original(trainer):
            yield report  # what is due after the step is written first
            if report.step % EVERY == 0:
                seconds = round(time.monotonic() - began, 1)
                rows.append({"step": report.step, "seconds": seconds, **measured()})
                cells = [f"{name} {value:g}" for name, value in rows[-1].items()]
                print("  ".join(cells), file=sys.stderr, flush=True)

    options = {
        "data": ("demo:64",),
        "image_size": 32,
        "batch_size": 4,
        "backbone": "resnet10_w32",
        "steps": steps,
        "workers": workers,
        "checkpoint_every": EVERY,
        "log_every": 50,
        "probe_data": ("demo:40",),
        "probe_every": EVERY,
        "precision": "fp32",
    }
    Trainer.steps = watched  # type: ignore[method-assign,assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            pretrain(RunConfig.merged(method, {**options, "out": Path(folder) / "run"}))
    finally:
        Trainer.steps = original  # type: ignore[method-assign]
    return rows


def growth(rows: list[dict[str, float]]) -> dict[str, float]:
    """Median of the last quarter minus that of the second, by what is measured."""
    quarter = max(1, len(rows) // 4)
    parts = rows[quarter : 2 * quarter] or rows[:1], rows[-quarter:]
    early, late = ({n: statistics.median(row[n] for row in part) for n in SLACK} for part in parts)
    return {name: round(late[name] - early[name], 1) for name in SLACK}


def main() -> None:
    """Print the table and what grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--method", default="jigsaw")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command line does
    rows = soak(arguments.method, arguments.steps, arguments.workers)
    grown = growth(rows)
    if arguments.json:
        print(json.dumps({"rows": rows, "growth": grown}, indent=2))
    else:
        print("".join(f"{name:>11}" for name in rows[0]))
        for row in rows:
            print("".join(f"{value:>11.1f}" for value in row.values()))
        print(f"{'growth':>22}" + "".join(f"{value:>11.1f}" for value in grown.values()))
    leaks = [name for name, value in grown.items() if value > SLACK[name]]
    if leaks:
        sys.exit(f"grew: {', '.join(leaks)}")


if __name__ == "__main__":
    main()
