"""Speed of distributed training on CPUs: processes, threads and how gradients are averaged.

    python benchmarks/ranks.py [--method jigsaw] [--settings 1 2 2:overlap 4 4:overlap 1x2]
    [--image-size 32] [--batch-size 32] [--steps 12] [--rounds 3] [--json]

A setting is PROCESSES, PROCESSESxTHREADS (of each process), or either with ``:overlap``: gradients
averaged during the backward pass instead of after it. Each thread gets a batch of equal size, so a
step with n of them sees n times the images, and all share the same cores. The increase of CPU time
per image is the cost of communication: averaging gradients, agreeing on stops, reducing metrics.
Settings are interleaved in rounds; medians are of the CPU time of all processes after their
start-up, and of wall time, which other jobs on the machine lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import time
from dataclasses import dataclass
from itertools import islice
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from rich.console import Console
from torch import multiprocessing

from ssltool.distributed.collectives import all_reduce_sum, any_of, is_main
from ssltool.distributed.process_group import process_group
from ssltool.runs.config import RunConfig
from ssltool.training.metrics import Meter
from ssltool.training.start import new_run
from ssltool.training.trainer import Trainer

WARM_UP = 2  # steps not counted


@dataclass(frozen=True)
class Setting:
    """What is compared."""

    processes: int
    threads: int
    all_reduce: str

    @classmethod
    def parse(cls, text: str) -> Setting:
        """``2``, ``1x2`` or ``2:overlap``."""
        sizes, _, all_reduce = text.partition(":")
        processes, _, threads = sizes.partition("x")
        return cls(int(processes), int(threads or 1), all_reduce or "single")


def train(
    rank: int,
    setting: Setting,
    port: int,
    method: str,
    given: dict[str, int],
    result: SimpleQueue[dict[str, float]],
) -> None:
    """One of the processes: the steps of `ssltool pretrain`, without writing anything."""
    world = str(setting.processes)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=world, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=world
    )
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(setting.threads)
    batch, steps = given["batch_size"] * setting.threads, given["steps"]
    options = {
        "data": ["demo:512"],
        "image_size": given["image_size"],
        "batch_size": batch,
        "workers": 0,
        "precision": "fp32",
        "device": "cpu",
        "all_reduce": setting.all_reduce,
    }
    config = RunConfig.merged(method, {**options, "steps": WARM_UP + steps})
    with process_group():
        trainer = Trainer.build(new_run(config), Console(quiet=True), cache_bytes=2**30)
        reports, meter = trainer.steps(), Meter()
        for _ in islice(reports, WARM_UP):
            pass
        any_of(False)  # a barrier
        wall, cpu = time.perf_counter(), time.process_time()
        for step in islice(reports, steps):
            any_of(False)
            meter.add(step)
        meter.line()
        spent = float(all_reduce_sum(torch.tensor(time.process_time() - cpu, dtype=torch.float64)))
        images = steps * batch * setting.processes
        if is_main():
            taken = time.perf_counter() - wall
            result.put({"cpu_s_per_image": spent / images, "images_per_s": images / taken})


def measure(setting: Setting, method: str, given: dict[str, int]) -> dict[str, float]:
    """Start the processes once and return what the first of them measured."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    result: SimpleQueue[dict[str, float]] = context.SimpleQueue()
    started = [
        context.Process(target=train, args=(n, setting, port, method, given, result))
        for n in range(setting.processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise SystemExit(f"a process of {setting} failed")
    return result.get()


def main() -> None:
    """Print a table, or a JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="jigsaw")
    parser.add_argument(
        "--settings", nargs="+", default=["1", "2", "2:overlap", "4", "4:overlap", "1x2"]
    )
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32, help="images per thread")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    given = {name: getattr(args, name) for name in ("image_size", "batch_size", "steps")}
    measurements: dict[str, list[dict[str, float]]] = {text: [] for text in args.settings}
    for _ in range(args.rounds):
        for text in args.settings:
            setting = Setting.parse(text)
            os.environ["OMP_NUM_THREADS"] = str(setting.threads)
            measurements[text].append(measure(setting, args.method, given))
    rows: list[dict[str, Any]] = []
    for text, measured in measurements.items():
        medians = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
        rows.append({"setting": text, **medians})
    for row in rows:
        row["relative_cost"] = row["cpu_s_per_image"] / rows[0]["cpu_s_per_image"]
        row["relative_speed"] = row["images_per_s"] / rows[0]["images_per_s"]
    result = {
        "method": args.method,
        **given,
        "rows": rows,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'setting':12}{'CPU ms/image':>14}{'relative':>10}{'images/s':>10}{'relative':>10}")
    for row in rows:
        print(
            f"{row['setting']:12}{1000 * row['cpu_s_per_image']:14.3f}{row['relative_cost']:10.3f}"
            f"{row['images_per_s']:10.0f}{row['relative_speed']:10.3f}"
        )


if __name__ == "__main__":
    main()
