"""Speed of the training step at the automatic precision, relative to plain float32.

    python benchmarks/step.py [--images 16] [--rounds 5] [--json]

The paper's jigsaw network (nine tiles of 64 px, 1000 permutations) and contrastive predictive
coding with ResNet-18 on 49 patches of 32 px, on prepared images. ssltool: channels-last, autocast
as in `ssltool pretrain`. Plain: the same weights in float32 and the default memory format; for
contrastive predictive coding with loops over patches and locations (see `benchmarks/cpc.py`).
CPU-seconds of forward and backward pass, one thread, medians of interleaved rounds, each side in
its own process.
"""

from __future__ import annotations

import argparse
import json
import platform
from functools import partial
from typing import Any

import torch
from cpc import compare_steps
from torch import nn
from turns import Task, take_turns

from ssltool.encoders.precision import choose_precision
from ssltool.methods.jigsaw.options import JigsawOptions
from ssltool.methods.jigsaw.task import Jigsaw, JigsawView
from ssltool.methods.options import DataInfo


def jigsaw_method(batch: int) -> tuple[Jigsaw, JigsawView]:
    """The paper's network and head, and tiles of a batch of images."""
    info = DataInfo(count=100_000, image_size=256)
    names = set(JigsawOptions.model_fields)
    given = {name: value for name, value in JigsawOptions.presets["paper"].items() if name in names}
    options = JigsawOptions(**given).with_defaults(info)
    torch.manual_seed(0)
    encoder = Jigsaw.inputs(options, info).build_encoder("caffenet", stem="imagenet", in_channels=3)
    method = Jigsaw(options, encoder, info).train()
    images = torch.randint(0, 256, (batch, 3, 256, 256), dtype=torch.uint8)
    return method, method.view(images, torch.arange(batch), torch.Generator().manual_seed(0))


def network(batch: int, plain: bool) -> Task:
    """Forward and backward pass of the paper's network and head on ready tiles."""
    method, view = jigsaw_method(batch)
    encoder = method.encoder
    if plain:
        for name in ("norm1", "norm2"):  # torch's own
            setattr(encoder.backbone.features, name, nn.LocalResponseNorm(5, 1e-4, 0.75))
        return lambda: method(view).value.backward()
    encoder.to(memory_format=torch.channels_last)
    precision = choose_precision(
        "auto", encoder, method.options.tile_input or 64, 3, torch.device("cpu")
    )

    def fast() -> None:
        with precision.autocast(torch.device("cpu")):
            loss = method(view).value
        loss.backward()

    return fast


def jigsaw(images: int, rounds: int) -> dict[str, Any]:
    """Both sides, interleaved."""
    sides = {
        "ssltool": partial(network, images, plain=False),
        "plain": partial(network, images, plain=True),
    }
    seconds = take_turns(sides, rounds)
    return {
        "images": images,
        **seconds,
        "ratio": seconds["plain"] / seconds["ssltool"],
        "images_per_cpu_second": images / seconds["ssltool"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16, help="images per batch of jigsaw")
    parser.add_argument("--cpc-images", type=int, default=4, help="images per batch of cpc")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "jigsaw": jigsaw(args.images, args.rounds),
        "cpc": compare_steps(args.cpc_images, args.rounds),
    }
    if args.json:
        print(
            json.dumps(
                {
                    **results,
                    "versions": {"python": platform.python_version(), "torch": torch.__version__},
                }
            )
        )
        return
    for name, result in results.items():
        print(
            f"{name:8} {result['images']} images: ssltool {result['ssltool']:.3f}, plain float32 "
            f"{result['plain']:.3f} CPU-seconds, {result['ratio']:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
