"""Training steps by how long OpenMP's threads spin at barriers, alone and beside a competing load.

    python benchmarks/threads.py [--backbone resnet10_w32_s2] [--jobs 2] [--rounds 3]

The load is ``--jobs`` processes for each core that multiply matrices in one thread. Policies and
loads take turns, each in a fresh process with a thread for each core; medians of the wall rate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

POLICIES = {
    "torch's own": {},
    "100,000 spins": {"GOMP_SPINCOUNT": "100000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
LOAD = "import torch; torch.set_num_threads(1); x = torch.randn(500, 500)\nwhile True: x @ x"
SECONDS = 6.0


def steps(backbone: str) -> None:
    """Images per second of training steps, printed."""
    import torch

    from ssltool.encoders.registry import build_encoder

    encoder = build_encoder(backbone, image_size=48, stem="small").train()
    encoder.to(memory_format=torch.channels_last)
    images = torch.randn(64, 3, 48, 48).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    count, begin = -1, 0.0  # the first step takes memory
    while count < 0 or time.perf_counter() - begin < SECONDS:
        optimizer.zero_grad()
        encoder(images).square().mean().backward()
        optimizer.step()
        count += 1
        begin = begin or time.perf_counter()
    print(len(images) * count / (time.perf_counter() - begin))


def measured(backbone: str, policy: dict[str, str]) -> float:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | policy
    words = [sys.executable, __file__, "--backbone", backbone, "--steps"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet10_w32_s2")
    parser.add_argument("--jobs", type=int, default=2, help="of the load, for each core")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps:
        steps(given.backbone)
        return
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(given.rounds):
        for jobs in (0, given.jobs * (os.cpu_count() or 1)):
            words = [sys.executable, "-c", LOAD]
            load = [subprocess.Popen(words) for _ in range(jobs)]
            try:
                for name, policy in POLICIES.items():
                    rates.setdefault((name, jobs), []).append(measured(given.backbone, policy))
            finally:
                for process in load:
                    process.kill()
                    process.wait()
    print("| policy | other processes | images/s | ratio to torch's own |\n|---|---|---|---|")
    for (name, jobs), values in rates.items():
        own = statistics.median(rates["torch's own", jobs])
        rate = statistics.median(values)
        print(f"| {name} | {jobs} | {rate:.0f} | {rate / own:.2f} |")


if __name__ == "__main__":
    main()
