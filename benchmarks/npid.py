"""Cost of instance discrimination over the number of images: time, memory, neighbors, losses.

    python benchmarks/npid.py [--json] [--largest 10000000] [--rounds 9]

Four tables. One training step (view, network, loss, backward, optimizer, bank update) with banks of
10^4 to 10^7 rows, all else equal: 64 images of 28 px, NCE with 4096 shared negatives; sizes are
interleaved, and all banks are slices of one, so 10^7 rows need 5.1 GB once. The resident memory of
a bank, in a fresh process. The search for the 20 nearest of 60,000 rows for 10,000 queries, in
chunks, against the plain product of that size and against a search on the full product. The losses
alone at 60,000 rows. CPU-seconds of one thread, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.encoders.registry import build_encoder
from ssltool.methods.npid import losses as nce
from ssltool.methods.npid.options import NpidOptions
from ssltool.methods.npid.task import Npid
from ssltool.methods.options import DataInfo
from ssltool.probing.knn import nearest
from ssltool.training.memory import keep_freed_memory

WIDTH, BATCH, NEGATIVES, SIDE = 128, 64, 4096, 28
HEAD_ROWS, QUERIES, NEIGHBORS = 60_000, 10_000, 20


def cpu_seconds(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU-seconds of each function over interleaved repeats."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if number:
                taken[name].append(time.process_time() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


def method_of(count: int, rows: Tensor) -> Npid:
    """The method for ``count`` images, whose bank is the first ``count`` of ``rows``."""
    info = DataInfo(2, SIDE, gray=True)
    torch.manual_seed(0)
    options = NpidOptions(loss="nce", negatives=NEGATIVES, bank_init="random").with_defaults(info)
    method = Npid(options, build_encoder("resnet10_w32", stem="small"), info)
    method.count, method.bank.count = count, count
    method.negatives = min(NEGATIVES, count - 1)
    method.bank.rows = rows[:count]
    return method.train()


def stepper(method: Npid) -> Callable[[], None]:
    """A function that takes one training step on the same images."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    images = torch.randint(
        0,
        256,
        (BATCH, 3, SIDE, SIDE),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    generator, epoch = torch.Generator(), iter(range(10**9))
    batches = torch.Generator().manual_seed(1)

    def step() -> None:
        index = torch.randint(method.count, (BATCH,), generator=batches)
        optimizer.zero_grad()
        view = method.view(images, index, generator.manual_seed(next(epoch)))
        loss = method(view)
        loss.value.backward()
        optimizer.step()
        method.after_step([loss.update])

    return step


def steps(largest: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step by size of the bank, and the ratio of the largest to the smallest."""
    sizes = [10**power for power in range(4, 8) if 10**power <= largest]
    rows = torch.empty(sizes[-1], WIDTH)
    for part in torch.split(rows, 2**16):
        part.copy_(F.normalize(torch.randn(part.shape)))
    seconds = cpu_seconds({str(size): stepper(method_of(size, rows)) for size in sizes}, rounds)
    return {"seconds": seconds, "ratio": seconds[str(sizes[-1])] / seconds[str(sizes[0])]}


MEASURE = """
import resource, sys
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
import torch
from ssltool.methods.npid.memory_bank import MemoryBank
MemoryBank(100_000, 128)
before = resident()
bank = MemoryBank(int(sys.argv[1]), 128, getattr(torch, sys.argv[2]))
print(resident() - before)
"""


def memory(count: int) -> dict[str, Any]:
    """Bytes that a bank adds to a process, and their ratio to the size of its values."""
    results = {}
    for name, size in (("float32", 4), ("float16", 2)):
        command = [sys.executable, "-c", MEASURE, str(count), name]
        measured = int(
            subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ
            ).stdout
        )
        results[name] = {
            "rows": count,
            "bytes": measured,
            "ratio": measured / (count * WIDTH * size),
        }
    return results


def neighbors(rounds: int) -> dict[str, float]:
    """The search in chunks, the plain product, and the search on the full product."""
    generator = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(HEAD_ROWS, WIDTH, generator=generator))
    queries = F.normalize(torch.randn(QUERIES, WIDTH, generator=generator))
    seconds = cpu_seconds(
        {
            "chunks": lambda: nearest(queries, bank, NEIGHBORS),
            "product": lambda: queries @ bank.T,
            "product_and_topk": lambda: (queries @ bank.T).topk(NEIGHBORS, dim=1),
        },
        rounds,
    )
    whole = (queries @ bank.T).topk(NEIGHBORS, dim=1)
    same = float((nearest(queries, bank, NEIGHBORS)[1] == whole.indices).float().mean())
    return {**seconds, "ratio": seconds["chunks"] / seconds["product"], "same_neighbors": same}


def heads(rounds: int) -> dict[str, float]:
    """Forward and backward pass of each loss alone, sampling included."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(HEAD_ROWS, WIDTH, generator=generator))
    features = F.normalize(torch.randn(BATCH, WIDTH, generator=generator)).requires_grad_()
    index, seeds = torch.randint(HEAD_ROWS, (BATCH,), generator=generator), torch.arange(BATCH)
    log_cm = torch.tensor(nce.log_constant(WIDTH, 0.07) + 8.3)

    def sampled(shared: bool) -> nce.Others:
        ids = nce.sample(seeds, index, HEAD_ROWS, NEGATIVES, shared=shared, exclude=True)
        return nce.Others(rows, ids, index)

    def run(terms: Callable[[], Tensor]) -> Callable[[], None]:
        def pass_() -> None:
            positive = (features * rows[index]).sum(dim=1) / 0.07
            (terms() - positive).sum().backward()  # type: ignore[no-untyped-call]

        return pass_

    return cpu_seconds(
        {
            "nce_shared": run(lambda: nce.noise_terms(features, sampled(True), 0.07, log_cm)[0]),
            "nce_own": run(lambda: nce.noise_terms(features, sampled(False), 0.07, log_cm)[0]),
            "infonce_shared": run(lambda: nce.log_sum_exp(features, sampled(True), 0.07)[0]),
            "softmax": run(
                lambda: nce.log_sum_exp(features, nce.Others(rows, None, index), 0.07)[0]
            ),
        },
        rounds,
    )


def report(results: Mapping[str, Any]) -> None:
    print(f"Training step, batch {BATCH}, {NEGATIVES} negatives, CPU-milliseconds")
    for size, seconds in results["step"]["seconds"].items():
        print(f"  {int(size):>12,} rows {1000 * seconds:9.1f}")
    print(f"  largest / smallest {results['step']['ratio']:.3f}")
    print("\nResident memory of a bank")
    for name, bank in results["memory"].items():
        print(
            f"  {name} {bank['rows']:,} rows {bank['bytes'] / 1e9:.3f} GB, "
            f"{bank['ratio']:.3f} times its values"
        )
    search = results["neighbors"]
    print(f"\n{NEIGHBORS} nearest of {HEAD_ROWS:,} rows for {QUERIES:,} queries, CPU-seconds")
    print(
        f"  in chunks {search['chunks']:.2f}, product alone {search['product']:.2f} (ratio "
        f"{search['ratio']:.2f}), ",
        end="",
    )
    print(
        f"product and top-k {search['product_and_topk']:.2f}; equal neighbors "
        f"{search['same_neighbors']:.4%}"
    )
    print(f"\nLosses, batch {BATCH}, {HEAD_ROWS:,} rows, CPU-milliseconds")
    for name, seconds in results["head"].items():
        print(f"  {name:16} {1000 * seconds:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Cost of instance discrimination over the number of images."
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    parser.add_argument("--largest", type=int, default=10**7, help="rows of the largest bank")
    parser.add_argument("--rounds", type=int, default=9, help="repeats")
    args = parser.parse_args()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(1)
    results = {
        "memory": memory(min(args.largest, 10**6)),
        "head": heads(5 * args.rounds),
        "neighbors": neighbors(min(3, args.rounds)),
        "step": steps(args.largest, args.rounds),
    }
    if not args.json:
        report(results)
        return
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    print(json.dumps({**results, "versions": versions, "machine": platform.machine()}, indent=2))


if __name__ == "__main__":
    main()
