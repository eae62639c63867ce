"""Time and memory of `ssltool probe` over the number of training images.

    python benchmarks/probe_growth.py WEIGHTS [--images 1000 10000 100000] [--test-images 1000]
    [--json] [probe options ...]

The whole command in a fresh process with one thread, on images of the demo world, which are all
different: extraction of the encoder, one random init and pixels, linear and kNN probes. The
exponent is that of the CPU time, or of the memory, between neighboring numbers of images: below 1
where a constant start counts, 1 where the cost per image is constant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What one command used.

    Attributes:
        cpu_s: CPU-seconds, of its processes together.
        memory: Largest resident memory of a process, bytes.
    """

    cpu_s: float
    memory: float


def probe(weights: Path, images: int, test_images: int, options: list[str]) -> Cost:
    """Run the command once, and say what it used."""
    words = [sys.executable, "-m", "ssltool", "probe", "--weights", str(weights), "--quiet"]
    words += ["--data", f"demo:{images}", "--test-data", f"demo-test:{test_images}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        words += ["--to", folder, "--no-keep-features", "--workers", "0", *options]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0)


def exponents(costs: dict[int, Cost], of: str) -> list[float]:
    """Slope between neighbors in a plot of both logarithms."""
    return [
        math.log(getattr(costs[more], of) / getattr(costs[fewer], of)) / math.log(more / fewer)
        for fewer, more in pairwise(sorted(costs))
    ]


def main() -> None:
    """Print a table, or a JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    args, options = parser.parse_known_args()
    costs = {n: probe(args.weights, n, args.test_images, options) for n in args.images}
    slopes = {name: exponents(costs, name) for name in Cost._fields}
    if args.json:
        print(json.dumps({"costs": {n: c._asdict() for n, c in costs.items()}, **slopes}, indent=2))
        return
    for count, cost in costs.items():
        print(f"{count:>9,} images: {cost.cpu_s:8.1f} CPU-s, {cost.memory / 1e9:6.2f} GB")
    for name, values in slopes.items():
        print(f"exponents of {name}:", ", ".join(f"{value:.2f}" for value in values))


if __name__ == "__main__":
    main()
