"""Cost of a training step over image size, batch size and number of permutations.

    python benchmarks/growth.py [--method jigsaw] [--rounds 3] [--json]

View, forward and backward pass of one method on a small ResNet, one thread, CPU-milliseconds per
image. One setting is varied at a time, and all are interleaved. Expected: a cost per image that is
constant in the batch size and proportional to the area of the image; the permutations of jigsaw
affect only its last layer, and several of them per image only the layers behind the encoder. The
loader over the number of files: `shards.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from typing import Any

import torch
from cpc import cpu_seconds

from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method

SIDES, BATCHES, PERMUTATIONS = (64, 128, 256), (8, 16, 32), (100, 1000)
PER_IMAGE = (1, 2, 4, 8)
SIDE, BATCH = 128, 8


def step(method: str, side: int, batch: int, **options: Any) -> Callable[[], None]:
    """A training step without the optimizer, on random images."""
    cls, info = find_method(method), DataInfo(count=10_000, image_size=side, batch_size=batch)
    chosen = cls.Options(**options).with_defaults(info)
    torch.manual_seed(0)
    inputs = cls.inputs(chosen, info)
    encoder = inputs.build_encoder("resnet10_w32", stem="imagenet", in_channels=inputs.channels)
    built = cls(chosen, encoder, info).train()
    built.encoder.to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    index, generator = torch.arange(batch), torch.Generator().manual_seed(0)

    def take() -> None:
        built(built.view(images, index, generator)).value.backward()

    return take


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="jigsaw")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings: dict[str, tuple[int, Callable[[], None]]] = {}
    for side in SIDES:
        settings[f"side {side}"] = (BATCH, step(args.method, side, BATCH))
    for batch in BATCHES:
        settings[f"batch {batch}"] = (batch, step(args.method, SIDE, batch))
    if args.method == "jigsaw":
        for count in PERMUTATIONS:
            settings[f"permutations {count}"] = (
                BATCH,
                step("jigsaw", SIDE, BATCH, permutations=count),
            )
        for count in PER_IMAGE:
            per_image = step("jigsaw", SIDE, BATCH, permutations_per_image=count)
            settings[f"permutations per image {count}"] = (BATCH, per_image)
    seconds = cpu_seconds({name: task for name, (_, task) in settings.items()}, args.rounds)
    each = {name: 1000 * seconds[name] / count for name, (count, _) in settings.items()}
    if args.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        print(
            json.dumps(
                {"method": args.method, "ms_per_image": each, "versions": versions}, indent=2
            )
        )
        return
    for name, value in each.items():
        print(f"{name:24} {value:8.2f} CPU-ms per image")


if __name__ == "__main__":
    main()
