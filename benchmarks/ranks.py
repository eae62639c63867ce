"""CPU-seconds per image in distributed training with 1, 2 and 4 processes.

    python benchmarks/ranks.py [--method jigsaw] [--ranks 1 2 4] [--steps 12] [--rounds 3] [--json]

Each process trains on its own batches of equal size, so a step with n processes sees n times the
images. The increase per image is the cost of communication: averaging gradients, agreeing on stops,
reducing metrics. Settings are interleaved in rounds; medians are of the CPU time of all processes
after their start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import time
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


def train(
    rank: int, world: int, port: int, method: str, steps: int, result: SimpleQueue[dict[str, float]]
) -> None:
    """One of the processes: the steps of `ssltool pretrain`, without writing anything."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world)
    )
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    given = {
        "data": ["demo:512"],
        "image_size": 32,
        "batch_size": 32,
        "workers": 0,
        "precision": "fp32",
    }
    config = RunConfig.merged(method, {**given, "steps": WARM_UP + steps})
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
        images = steps * 32 * world
        if is_main():
            taken = time.perf_counter() - wall
            result.put({"cpu_s_per_image": spent / images, "images_per_s": images / taken})


def measure(world: int, method: str, steps: int) -> dict[str, float]:
    """Start the processes once and return what the first of them measured."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    result: SimpleQueue[dict[str, float]] = context.SimpleQueue()
    started = [
        context.Process(target=train, args=(n, world, port, method, steps, result))
        for n in range(world)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise SystemExit(f"a process of {world} failed")
    return result.get()


def main() -> None:
    """Print a table, or a JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="jigsaw")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    measurements: dict[int, list[dict[str, float]]] = {world: [] for world in args.ranks}
    for _ in range(args.rounds):
        for world in args.ranks:
            measurements[world].append(measure(world, args.method, args.steps))
    rows: list[dict[str, Any]] = []
    for world, measured in measurements.items():
        medians = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
        rows.append({"processes": world, **medians})
    for row in rows:
        row["relative_cost"] = row["cpu_s_per_image"] / rows[0]["cpu_s_per_image"]
    result = {
        "method": args.method,
        "rows": rows,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print("processes  CPU ms/image  relative to first  images/s (wall)")
    for row in rows:
        print(
            f"{row['processes']:9}  {1000 * row['cpu_s_per_image']:14.3f}  "
            f"{row['relative_cost']:17.3f}  "
            f"{row['images_per_s']:17.0f}"
        )


if __name__ == "__main__":
    main()
