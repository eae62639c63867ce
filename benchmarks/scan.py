"""How long a folder of a million files takes to list, what that costs in memory, and when the first
step comes.

    python benchmarks/scan.py [--files 1000000] [--folders 1000] [--step] [--json]

An image for each folder, hard-linked under many names. Each measurement is a fresh process, the
file system's cache being warm. ``--step`` also starts a run of two steps on the folder with the
command line, and one on one of its folders alone, and takes the CPU time and the time until each
ends. Beside ours: torchvision's ImageFolder.
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
    """Hard links to a few images: a file system allows only so many links to one."""
    for number in range(folders):
        sub = folder / f"class-{number:04d}"
        sub.mkdir()
        first = sub / "image-0000000.jpg"
        Image.new("RGB", (32, 32), (number % 256, 100, 200)).save(first)
        for place in range(1, files // folders):
            os.link(first, sub / f"image-{place:07d}.jpg")


def measured(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, what, str(folder)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return found


def first_step(folder: Path) -> dict[str, float]:
    """Seconds of two steps and everything before them, the start of Python included."""
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
    given = parser.parse_args()
    results: dict[str, Any] = {"files": given.files, "folders": given.folders}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), given.files, given.folders)
        for what in ("ssltool", "ImageFolder"):
            measured(what, Path(name))  # warms the file system's cache
            results[what] = measured(what, Path(name))
        if given.step:
            results["first_step_small"] = first_step(Path(name) / "class-0000")
            results["first_step"] = first_step(Path(name))
    if given.json:
        print(json.dumps({**results, "python": platform.python_version()}, indent=2))
        return
    for what in ("ssltool", "ImageFolder"):
        found = results[what]
        print(
            f"{what:12} {found['images']:,} images in {found['seconds']:.2f} s "
            f"({found['cpu_seconds']:.2f} CPU-s), "
            f"holds {found['held_mb']:.0f} MB, peak {found['peak_mb']:.0f} MB"
        )
    if given.step:
        for name in ("first_step_small", "first_step"):
            found = results[name]
            print(
                f"{name.replace('_', ' ')}: {found['seconds']:.1f} s, {found['cpu_seconds']:.1f} "
                "CPU-s from the start"
            )


if __name__ == "__main__":
    main()
