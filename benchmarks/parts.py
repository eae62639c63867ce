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
PATIENCE = 600.0  # seconds, for a process that ended


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
    rank: int, world: int, port: int, works: list[Callable[[], None]], turn: Barrier, taken: Any
) -> None:
    """One process: does each piece of work at its turn, and tells its wall and CPU seconds."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    os.environ.update(LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="localhost")
    torch.set_num_threads(1)
    for number, work in enumerate(works):
        os.environ["MASTER_PORT"] = str(port + number)
        turn.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        taken.put((time.perf_counter() - wall, time.process_time() - cpu))


class Processes:
    """Some processes that do pieces of work together, one after another."""

    def __init__(self, world: int, works: list[Callable[[], None]]) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._world, self._taken = world, context.Queue()
        self._turn = context.Barrier(world + 1)
        for rank in range(world):
            arguments = (rank, world, port, works, self._turn, self._taken)
            context.Process(target=process, args=arguments, daemon=True).start()

    def once(self) -> tuple[float, float]:
        """Wall seconds of the slowest process, and CPU seconds of all, for the next work."""
        self._turn.wait(PATIENCE)
        taken = [self._taken.get(timeout=PATIENCE) for _ in range(self._world)]
        return max(wall for wall, _ in taken), sum(cpu for _, cpu in taken)


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
        works: list[Callable[[], None]] = [
            partial(COMMANDS[name], folder, images) for name in COMMANDS
        ]
        sides = {world: Processes(world, works * (rounds + 1)) for world in worlds}
        turns = [
            {(name, world): sides[world].once() for name in COMMANDS for world in worlds}
            for _ in range(rounds + 1)
        ][1:]  # the first one warms up
        for name, world in turns[0]:
            walls, cpus = zip(*(turn[name, world] for turn in turns), strict=True)
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
