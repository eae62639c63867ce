"""Images per second of the loader: a folder of small images, tar shards and raw shards of it.

    python benchmarks/shards.py IMAGES --size 32 [--files 1000 10000] [--rounds 3] [--json]

IMAGES, small ones such as those of CIFAR, are linked under as many names as ``--files`` says. Up
to 10,000 of them are packed in both formats, and the shards named as often as makes up the number.
Each kind has its own process with one thread; they take turns, 2048 images at a time in shuffled
order, nothing cached, the file system's cache warm. The exponent is that of the time per image over
the number of files: 0 is a cost that does not grow.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rich.console import Console
from turns import Task, take_turns

from ssltool.data.loader import TrainBatches
from ssltool.data.options import PackOptions
from ssltool.data.pack import pack
from ssltool.data.sources.registry import open_source

IMAGES, BATCH, PACKED = 2048, 256, 10_000


def link(images: Path, to: Path, files: int) -> None:
    """So many names for the images of a folder, a thousand in each folder."""
    found = sorted(path for path in images.rglob("*") if path.is_file())
    for number, path in enumerate(islice(cycle(found), files)):
        folder = to / f"class-{number // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{number:07d}{path.suffix}"
        try:
            os.link(path, copy)
        except OSError:  # another disk, or too many links to this file
            copy.write_bytes(path.read_bytes())


def loading(folders: list[str], size: int, batch: int) -> Task:
    """The batches of 2048 images, or of all if there are fewer."""
    loader = TrainBatches(open_source(folders), size=size, batch_size=batch, seed=0, workers=0)
    batches = loader.from_step(0)

    def once() -> None:
        for _ in islice(batches, IMAGES // batch):
            pass

    return once


def measure(images: Path, size: int, files: int, rounds: int) -> dict[str, Any]:
    """Images per CPU-second, size on disk and packing speed of each kind."""
    with tempfile.TemporaryDirectory(dir=images.parent) as name:
        root = Path(name)
        few = min(files, PACKED)
        link(images, root / "folder", files)
        link(images, root / "few", few)
        quiet, data = Console(quiet=True), (str(root / "few"),)
        tar = pack(PackOptions(data=data, to=root / "tar", size=size), quiet)
        options = PackOptions(data=data, to=root / "raw", size=size, format="raw")
        raw = pack(options, quiet)
        assert tar is not None
        assert raw is not None
        times = {"folder": 1, "tar": files // few, "raw": files // few}
        kinds = {
            kind: partial(loading, [str(root / kind)] * count, size, min(BATCH, files))
            for kind, count in times.items()
        }
        seconds = take_turns(kinds, rounds, frozenset(kinds))
    speed = {kind: IMAGES / spent for kind, spent in seconds.items()}
    packing = {"tar": few / tar.seconds, "raw": few / raw.seconds}
    return {
        "images_per_cpu_s": speed,
        "kilobytes_per_image": {"tar": tar.bytes / few / 1e3, "raw": raw.bytes / few / 1e3},
        "packed_per_s": packing,
    }


def exponent(results: dict[int, dict[str, Any]], kind: str) -> float:
    """Growth of the time per image from the fewest to the most files."""
    few, many = min(results), max(results)
    slower = results[few]["images_per_cpu_s"][kind] / results[many]["images_per_cpu_s"][kind]
    return math.log(slower) / math.log(many / few)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {n: measure(args.images, args.size, n, args.rounds) for n in args.files}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    for files, measured in results.items():
        speed, size = measured["images_per_cpu_s"], measured["kilobytes_per_image"]
        print(
            f"{files:>9,} files: folder {speed['folder']:8.0f} images per CPU-second, "
            f"tar {speed['tar']:8.0f}, raw {speed['raw']:8.0f} "
            f"({speed['raw'] / speed['folder']:.1f} x the folder, "
            f"{speed['raw'] / speed['tar']:.1f} x tar); "
            f"{size['tar']:.1f} kB as tar, {size['raw']:.1f} raw"
        )
    if len(results) > 1:
        for kind in ("folder", "tar", "raw"):
            print(
                f"{kind}: time per image grows with the files to the {exponent(results, kind):.2f}"
            )


if __name__ == "__main__":
    main()
