"""What else could make a training step on a CPU faster: one change each, beside `--precision auto`.

    python benchmarks/step_variants.py [--network jigsaw cpc optimizers] [--images 16]
    [--cpc-images 4] [--rounds 5] [--variants ssltool contiguous ...] [--json]

The networks of `benchmarks/step.py`. *contiguous*: without the channels-last memory format.
*compiled*: the encoder compiled by inductor, compilation not counted (its wall time is printed).
*quarter* and *double*: other batch sizes. *optimizers*: a step of AdamW and SGD on the paper's
jigsaw network: fused (as in ssltool), foreach, and one parameter after another. CPU-seconds per
image (of optimizers: per step) and their ratio to ssltool's, one thread, medians of interleaved
rounds, each variant in its own process.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from functools import partial
from typing import Any

import torch
from cpc import step_tasks
from step import jigsaw_method
from torch import Tensor
from torch.optim import SGD, AdamW
from turns import Task, take_turns

from ssltool.encoders.precision import choose_precision
from ssltool.methods.base import Method

CPU = torch.device("cpu")
BATCHES = {"quarter": 0.25, "double": 2.0}
VARIANTS = ["ssltool", "contiguous", "compiled", *BATCHES]
OPTIMIZERS = {
    "ssltool": {"fused": True},
    "foreach": {"foreach": True},
    "one by one": {"foreach": False},
}


def batch_of(variant: str, images: int) -> int:
    """Images per batch of a variant."""
    return max(1, round(images * BATCHES.get(variant, 1.0)))


def changed(method: Method[Any, Any], variant: str) -> None:
    """Apply the variant to a channels-last method."""
    if variant == "contiguous":
        method.to(memory_format=torch.contiguous_format)
    if variant == "compiled":
        method.encoder.compile()


def timed_first(step: Task, variant: str) -> Task:
    """Take the first step, and say how long a compiled one takes to begin."""
    began = time.perf_counter()
    step()
    if variant == "compiled":
        print(f"compiled: first step after {time.perf_counter() - began:.0f} s", flush=True)
    return step


def jigsaw(images: int, variant: str) -> Task:
    """Forward and backward pass of the paper's network on ready tiles."""
    method, view = jigsaw_method(batch_of(variant, images))
    method.to(memory_format=torch.channels_last)
    changed(method, variant)
    precision = choose_precision("auto", method.encoder, 64, 3, CPU)

    def step() -> None:
        with precision.autocast(CPU):
            loss = method(view).value
        loss.backward()

    return timed_first(step, variant)


def cpc(images: int, variant: str) -> Task:
    """Forward and backward pass on 49 patches of each image."""
    loss, _, method = step_tasks(batch_of(variant, images))
    changed(method, variant)
    precision = choose_precision("auto", method.encoder, 32, 3, CPU)

    def step() -> None:
        loss(precision).backward()  # type: ignore[no-untyped-call]

    return timed_first(step, variant)


def optimizer(name: str, variant: str) -> Task:
    """Step of an optimizer with constant gradients."""
    method, _ = jigsaw_method(2)
    parameters: list[Tensor] = list(method.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-4)
    given: dict[str, Any] = OPTIMIZERS[variant]
    if name == "adamw":
        return AdamW(parameters, lr=1e-4, **given).step
    return SGD(parameters, lr=1e-4, momentum=0.9, **given).step


def compare(
    begin: Any, variants: list[str], first: Any, rounds: int, images: dict[str, int]
) -> dict[str, Any]:
    """Seconds per image of each variant, and relative to ssltool's."""
    seconds = take_turns({v: partial(begin, first, v) for v in variants}, rounds)
    each = {variant: seconds[variant] / images[variant] for variant in variants}
    return {v: {"cpu_s": s, "relative": s / each["ssltool"]} for v, s in each.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = ["jigsaw", "cpc", "optimizers"]
    parser.add_argument("--network", nargs="+", choices=networks, default=networks)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--images", type=int, default=16, help="images per batch of jigsaw")
    parser.add_argument("--cpc-images", type=int, default=4, help="images per batch of cpc")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, begin, images in (("jigsaw", jigsaw, args.images), ("cpc", cpc, args.cpc_images)):
        if name in args.network:
            counts = {variant: batch_of(variant, images) for variant in args.variants}
            results[name] = compare(begin, args.variants, images, args.rounds, counts)
    if "optimizers" in args.network:
        for name in ("adamw", "sgd"):
            ones = dict.fromkeys(OPTIMIZERS, 1)
            results[name] = compare(optimizer, list(OPTIMIZERS), name, args.rounds, ones)
    if args.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({**results, "versions": versions}))
        return
    for name, rows in results.items():
        for variant, row in rows.items():
            print(f"{name:8} {variant:12} {1000 * row['cpu_s']:10.2f} ms {row['relative']:8.3f}")


if __name__ == "__main__":
    main()
