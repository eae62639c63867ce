"""`embed` and `data check` in several processes against one, on the same cores.

    python benchmarks/parts.py IMAGES [--processes 1 2] [--rounds 3] [--json]

Processes have one thread each; `embed` applies a ResNet-18 at 128 px. All numbers of processes take
turns on the same images. Medians of images per second, and of CPU milliseconds per image of all
processes together; their start is not counted, their rendezvous and what they send is.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import multiprocessing

from ssltool.data.check import check
from ssltool.data.sources.registry import open_source
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe, save_encoder
from ssltool.probing.embed import embed
from ssltool.probing.options import EmbedOptions

QUIET = Console(quiet=True)
SIDE = 128


def embedded(folder: str, images: str) -> None:
    """One pass of `embed`."""
    place = Path(folder)
    options = EmbedOptions(
        data=(images,), weights=place / "encoder.safetensors", to=place / "x.npz", workers=0
    )
    embed(options, QUIET)


def checked(folder: str, images: str) -> None:
    """One pass of `data check`."""
    del folder
    check(images, QUIET)


COMMANDS: dict[str, Callable[[str, str], None]] = {"embed": embedded, "data check": checked}


def process(
    rank: int, world: int, port: int, work: Callable[[], None], ready: Barrier, taken: Any
) -> None:
    """One process of a command; its wall and CPU seconds."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    os.environ.update(LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    ready.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    taken.put((time.perf_counter() - wall, time.process_time() - cpu))


def once(world: int, work: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds of the slowest process, and CPU seconds of all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ready, taken = context.Barrier(world), context.SimpleQueue()
    started = [
        context.Process(target=process, args=(rank, world, port, work, ready, taken))
        for rank in range(world)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join()
    if any(each.exitcode for each in started):
        raise SystemExit("a process ended, see above")
    walls, cpus = zip(*(taken.get() for _ in started), strict=True)
    return max(walls), sum(cpus)


def compare(images: str, worlds: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each command and number of processes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        encoder = build_encoder("resnet18")
        about: dict[str, Any] = {"method": "npid", "color_space": "rgb", "image_size": SIDE}
        metadata = describe(encoder, mean=(0.5,) * 3, std=(0.25,) * 3, **about)
        save_encoder(encoder, metadata, Path(folder) / "encoder.safetensors")
        count = len(open_source(images))
        for name, command in COMMANDS.items():
            work = partial(command, folder, images)
            turns = [{world: once(world, work) for world in worlds} for _ in range(rounds)]
            for world in worlds:
                walls, cpus = zip(*(turn[world] for turn in turns), strict=True)
                speed, cpu = count / median(walls), 1000 * median(cpus) / count
                rows.append({"command": name, "processes": world, "per_s": speed, "cpu_ms": cpu})
    return rows


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = compare(given.images, given.processes, given.rounds)
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    print("| command | processes | images/s | relative | CPU ms per image | relative |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        base = next(each for each in rows if each["command"] == row["command"])
        speed, cpu = row["per_s"], row["cpu_ms"]
        values = (
            f"{speed:.1f} | {speed / base['per_s']:.2f} | {cpu:.2f} | {cpu / base['cpu_ms']:.2f}"
        )
        print(f"| `{row['command']}` | {row['processes']} | {values} |")


if __name__ == "__main__":
    main()
