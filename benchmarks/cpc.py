"""Speed of CPC's loss and training step, relative to a straightforward implementation.

    python benchmarks/cpc.py [--images 32] [--step-images 4] [--rounds 5] [--json]

Both comparisons check that the values agree. Loss: all locations of an offset at once, against a
loop over locations, forward and backward. Step: ResNet-18 on the 49 patches of 32 px of 128 px
images as in ssltool (one strided cut, channels-last, autocast where it is faster), against the same
weights in plain float32 with patches cut in a loop and the looped loss. CPU-seconds, medians of
interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import Task, take_turns

from ssltool.encoders.layers.small_maps import SmallMapConv2d
from ssltool.encoders.precision import Precision, choose_precision
from ssltool.methods.cpc.infonce import retrieve
from ssltool.methods.cpc.options import CpcOptions
from ssltool.methods.cpc.task import Cpc
from ssltool.methods.options import DataInfo
from ssltool.ops import grids

SCALE = 0.1


def loop_over_locations(queries: Tensor, targets: Tensor, offset: int) -> Tensor:
    """Mean cross-entropy, one location of the grid after the other."""
    images, rows, columns, _ = targets.shape
    candidates = targets.flatten(0, 2)
    losses = []
    for i in range(rows - offset):
        for j in range(columns):
            logits = SCALE * queries[:, i, j] @ candidates.T
            labels = torch.arange(images) * rows * columns + (i + offset) * columns + j
            losses.append(F.cross_entropy(logits, labels))
    return torch.stack(losses).mean()


def cpu_seconds(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU-seconds of each task over interleaved rounds, after a warm-up round."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if number:
                taken[name].append(time.process_time() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


def compare_losses(images: int, rounds: int) -> dict[str, float]:
    """All offsets of one direction on a 7x7 grid of vectors of dimension 64."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(images, 7, 7, 64, generator=generator, requires_grad=True)
    queries = {
        k: torch.randn(images, 7 - k, 7, 64, generator=generator, requires_grad=True)
        for k in range(2, 7)
    }

    def ours() -> Tensor:
        return torch.stack(
            [retrieve(q, targets, k, scale=SCALE).loss.mean() for k, q in queries.items()]
        ).mean()

    def loop() -> Tensor:
        return torch.stack([loop_over_locations(q, targets, k) for k, q in queries.items()]).mean()

    difference = abs(float(ours().detach()) - float(loop().detach()))
    assert difference < 1e-5, difference
    seconds = cpu_seconds(
        {"ssltool": partial(_backward, ours), "loop": partial(_backward, loop)}, rounds
    )
    ratio = seconds["loop"] / seconds["ssltool"]
    return {"images": images, "difference": difference, **seconds, "ratio": ratio}


def _backward(loss: Callable[[], Tensor]) -> None:
    loss().backward()  # type: ignore[no-untyped-call]


def step_tasks(batch: int) -> tuple[Callable[[Precision], Tensor], Callable[[], Tensor], Cpc]:
    """The loss of one batch in all four directions, as in ssltool and straightforward, and the
    method whose weights both use.
    """
    info = DataInfo(count=1000, image_size=128)
    options = CpcOptions(directions=4, last_stage="layer3", flip=0.0, augment="none").with_defaults(
        info
    )
    torch.manual_seed(0)
    method = Cpc(
        options,
        Cpc.inputs(options, info).build_encoder("resnet18", stem="imagenet", in_channels=3),
        info,
    ).train()
    plain = copy.deepcopy(method)
    for module in plain.modules():
        if isinstance(module, SmallMapConv2d):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]  # torch's own
    method.encoder.to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch, 3, 128, 128), dtype=torch.uint8)
    index, generator = torch.arange(batch), torch.Generator().manual_seed(0)

    def ours(precision: Precision) -> Tensor:
        view = method.view(images, index, generator)
        with precision.autocast(torch.device("cpu")):
            loss: Tensor = method(view).value
        return loss

    def straightforward() -> Tensor:
        corners = [(32 // 2 * i, 32 // 2 * j) for i in range(7) for j in range(7)]
        cut = torch.stack(
            [images[:, :, y : y + 32, x : x + 32].float() / 255 for y, x in corners], dim=1
        )
        shown = (cut - plain.mean) / plain.std
        codes = plain.encoder(shown.flatten(0, 1)).view(batch, 7, 7, -1).permute(0, 3, 1, 2)
        losses = []
        for direction in plain.directions:
            targets, predictions = plain.predictors[direction](grids.orient(codes, direction))
            losses += [loop_over_locations(q, targets, k) for k, q in predictions.items()]
        return torch.stack(losses).mean()

    return ours, straightforward, method


def fast_step(images: int) -> Task:
    """Forward and backward pass of ssltool."""
    ours, _, method = step_tasks(images)
    precision = choose_precision("auto", method.encoder, 32, 3, torch.device("cpu"))
    return partial(_backward, partial(ours, precision))


def plain_step(images: int) -> Task:
    """Forward and backward pass of the straightforward implementation."""
    _, straightforward, _ = step_tasks(images)
    return partial(_backward, straightforward)


def compare_steps(images: int, rounds: int) -> dict[str, float]:
    """Forward and backward pass of one batch, all four directions."""
    ours, straightforward, _ = step_tasks(2)
    with torch.no_grad():
        difference = abs(float(ours(Precision("fp32", ""))) - float(straightforward()))
    assert difference < 1e-4, difference
    seconds = take_turns(
        {"ssltool": partial(fast_step, images), "plain": partial(plain_step, images)}, rounds
    )
    ratio = seconds["plain"] / seconds["ssltool"]
    return {
        "images": images,
        "patches": 49 * images,
        "difference_in_fp32": difference,
        **seconds,
        "ratio": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32, help="images per batch of the loss")
    parser.add_argument(
        "--step-images", type=int, default=4, help="images per batch of the training step"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    args = parser.parse_args()
    loss, step = (
        compare_losses(args.images, args.rounds),
        compare_steps(args.step_images, args.rounds),
    )
    if args.json:
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        print(
            json.dumps(
                {"loss": loss, "step": step, "versions": versions, "machine": platform.machine()},
                indent=2,
            )
        )
        return
    print(f"loss, {loss['images']} images, CPU-seconds of a forward and backward pass")
    print(
        f"  all locations at once {loss['ssltool']:.4f}, loop {loss['loop']:.4f}: "
        f"{loss['ratio']:.2f} times as fast"
    )
    print(f"step, {step['images']} images of 49 patches of 32 px, ResNet-18 to layer3")
    print(
        f"  ssltool {step['ssltool']:.3f}, plain float32 {step['plain']:.3f}: "
        f"{step['ratio']:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
