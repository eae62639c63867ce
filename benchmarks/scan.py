"""Time and memory to list a folder of a million files, and time to the first training step.

    python benchmarks/scan.py [--files 1000000] [--folders 1000] [--step] [--json]

One image per folder, hard-linked under many names. Each measurement is a fresh process with a warm
file system cache; torchvision's ImageFolder is the reference. ``--step`` also times a run of two
steps on the whole folder and on one of its subfolders, from the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

MEASURE = """
import json, resource, sys, time
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
what, folder = sys.argv[1:]
if what == "ssltool":
    from ssltool.data.sources.registry import open_source
    build = lambda: open_source([folder])
else:
    from torchvision.datasets import ImageFolder
    build = lambda: ImageFolder(folder)
before, start, cpu = resident(), time.perf_counter(), time.process_time()
built = build()
print(json.dumps({
    "images": len(built), "seconds": time.perf_counter() - start,
    "cpu_seconds": time.process_time() - cpu,
    "held_mb": (resident() - before) / 1e6, "peak_mb": (peak() - before) / 1e6,
}))
"""


def make(folder: Path, files: int, folders: int) -> None:
    """Hard links to one image per folder, because file systems limit the links to a file."""
    for number in range(folders):
        sub = folder / f"class-{number:04d}"
        sub.mkdir()
        first = sub / "image-0000000.jpg"
        Image.new("RGB", (32, 32), (number % 256, 100, 200)).save(first)
        for i in range(1, files // folders):
            os.link(first, sub / f"image-{i:07d}.jpg")


def measured(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, what, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(process.stdout)
    return result


def first_step(folder: Path) -> dict[str, float]:
    """Seconds of a run of two steps, from the start of Python."""
    command = [
        sys.executable,
        "-m",
        "ssltool",
        "pretrain",
        "jigsaw",
        "--data",
        str(folder),
        "--image-size",
        "32",
    ]
    command += [
        "--backbone",
        "resnet10_w32",
        "--batch-size",
        "16",
        "--dry-run",
        "--steps",
        "2",
        "--quiet",
        "--json",
    ]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--step", action="store_true", help="also start a run on the folder")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    args = parser.parse_args()
    results: dict[str, Any] = {"files": args.files, "folders": args.folders}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), args.files, args.folders)
        for what in ("ssltool", "ImageFolder"):
            measured(what, Path(name))  # warms the file system's cache
            results[what] = measured(what, Path(name))
        if args.step:
            results["first_step_small"] = first_step(Path(name) / "class-0000")
            results["first_step"] = first_step(Path(name))
    if args.json:
        print(json.dumps({**results, "python": platform.python_version()}, indent=2))
        return
    for what in ("ssltool", "ImageFolder"):
        listed = results[what]
        print(
            f"{what:12} {listed['images']:,} images in {listed['seconds']:.2f} s "
            f"({listed['cpu_seconds']:.2f} CPU-s), "
            f"holds {listed['held_mb']:.0f} MB, peak {listed['peak_mb']:.0f} MB"
        )
    if args.step:
        for name in ("first_step_small", "first_step"):
            run = results[name]
            print(
                f"{name.replace('_', ' ')}: {run['seconds']:.1f} s, {run['cpu_seconds']:.1f} "
                "CPU-s, start-up included"
            )


if __name__ == "__main__":
    main()
