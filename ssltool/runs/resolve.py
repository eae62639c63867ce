"""`resolve`: decide what the options leave open from the images and the machine; refuse misfits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ssltool.data.ranges import AUTO
from ssltool.encoders.metadata import LARGEST_GRID
from ssltool.errors import UsageError
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.options import (
    LARGEST_SIDE,
    SMALLEST_SIDE,
)
from ssltool.runs.config import ResolvedConfig, RunConfig
from ssltool.runs.options import ResolvedOptions, RunOptions

if TYPE_CHECKING:
    from ssltool.methods.base import EncoderInput

_SMALL = 64  # px: up to here images get the small stem and, by default, the small ResNet
_IMAGES_SEEN = (
    100_000  # by an automatic run: minutes on a laptop for small images, an hour for large
)


def resolve(config: RunConfig, data: DataInfo) -> ResolvedConfig:
    """Decide every option left open from the images, the machine and the number of processes.

    Raises:
        UsageError: The options do not fit the images or each other.
    """
    from ssltool.device import choose_device  # imports torch
    from ssltool.distributed.collectives import world_size
    from ssltool.encoders.registry import check_known

    asked, task = config.run, config.task.with_defaults(data)
    if not data.rgb:
        task, _ = task.without_color()
    check_probe(asked)
    if asked.backbone is not None:
        check_known(asked.backbone)
    inputs = find_method(config.method).inputs(task, data)
    _check_load_size(asked.load_size, config.method, inputs, data.image_size)
    _check_inputs(inputs, data.image_size)
    small = data.image_size <= _SMALL
    backbone = asked.backbone or ("resnet10_w32" if small else "resnet18")
    processes = world_size()
    most = 2 ** max(0, (data.count // processes).bit_length() - 1)
    batch = asked.batch_size or min(256 if small else 64, most)
    per_step = batch * processes * asked.accumulate
    epochs, steps = _length(asked, data.count, per_step)
    rates = {"sgd": 0.1 * per_step / 256, "lars": 4.8 * per_step / 256, "adamw": 1e-3}
    decays = {"sgd": 1e-4, "lars": 1e-4, "adamw": 0.05}
    decided = {
        "image_size": data.image_size,
        "backbone": backbone,
        "framing": _framing(asked.framing, config.method, inputs),
        "channels": _channels(asked.channels, config.method, inputs),
        "value_range": asked.value_range or (AUTO if asked.as_they_are else None),
        "stem": _stem(asked.stem, backbone, small),
        "batch_size": batch,
        "devices": processes,
        "all_reduce": asked.all_reduce
        or ("overlap" if choose_device(asked.device).type == "cuda" else "single"),
        "epochs": None,
        "budget": None,
        "steps": steps,
        "lr": asked.lr or rates[asked.optimizer],
        "weight_decay": decays[asked.optimizer]
        if asked.weight_decay is None
        else asked.weight_decay,
        "warmup": epochs / 20 if asked.warmup is None else asked.warmup,
        "checkpoint_every": asked.checkpoint_every or max(100, min(data.count // per_step, 2000)),
    }
    run = ResolvedOptions(**{**asked.model_dump(), **decided})
    return ResolvedConfig(
        method=config.method,
        run=run,
        task=task,
        data=data.for_batches_of(batch * processes),
    )


def check_probe(options: RunOptions) -> None:
    """Refuse an interval of online kNN evaluations without images for them.

    Raises:
        UsageError: ``--probe-every`` without ``--probe-data``.
    """
    if options.probe_every is not None and not options.probe_data:
        raise UsageError("--probe-every: no effect without --probe-data; type both or neither")


def steps_of(epochs: float, images: int, images_per_step: int) -> int:
    """Optimizer steps in a number of passes over the data."""
    return max(1, round(epochs * max(1, images // images_per_step)))


def _length(asked: RunOptions, count: int, per_step: int) -> tuple[float, int]:
    """Epochs and steps of the run."""
    if asked.epochs is not None:
        epochs = asked.epochs
    elif asked.steps is not None:
        epochs = asked.steps / max(1, count // per_step)
    else:
        epochs = min(200, max(10, round(_IMAGES_SEEN / count)))
    return epochs, asked.steps or steps_of(epochs, count, per_step)


def _check_load_size(asked: int | None, name: str, inputs: EncoderInput, image_size: int) -> None:
    if asked is None or asked == image_size:
        return
    if not inputs.random_crop:
        raise UsageError(
            f"--load-size {asked}: {name} cuts no random crops; omit it, or type --image-size "
            f"{asked}"
        )
    if asked < image_size:
        raise UsageError(
            f"--load-size {asked} is less than the images' {image_size} px; type {image_size} or "
            "more, or omit it"
        )


def _framing(asked: str | None, name: str, inputs: EncoderInput) -> str:
    if asked == "whole" and not inputs.random_crop:
        raise UsageError(
            f"--framing whole: {name} reads center squares, it cuts no random crops; omit it"
        )
    return asked or ("whole" if inputs.random_crop else "square")


def _check_inputs(inputs: EncoderInput, read_size: int) -> None:
    """Refuse sizes that weights files do not hold."""
    if not SMALLEST_SIDE <= inputs.feature_size <= LARGEST_SIDE:
        raise UsageError(
            f"--patch-input: whole images would be encoded at {inputs.feature_size} px, not "
            f"{SMALLEST_SIDE} to {LARGEST_SIDE}; type a size nearer to --patch"
        )
    if inputs.patch_grid is not None:
        side, stride = inputs.patch_grid
        count = (read_size - side) // stride + 1
        if count > LARGEST_GRID:
            raise UsageError(
                f"--stride {stride}: images of {read_size} px hold {count}x{count} patches, more "
                f"than {LARGEST_GRID}x{LARGEST_GRID}; type a larger one"
            )


def _channels(asked: int | None, name: str, inputs: EncoderInput) -> int:
    if inputs.color_space != "lightness":
        return asked or 3
    if asked == 3:
        raise UsageError(
            f"--channels 3: {name} reads lightness, which is one channel; omit it or type "
            "--channels 1"
        )
    return 1


def _stem(asked: str, backbone: str, small: bool) -> str:
    if asked != "auto":
        return asked
    if backbone.startswith(("resnet10_", "resnet20", "resnet32", "resnet44", "resnet56")):
        return "small"
    resnet = re.match(r"(timm/)?(resnet|resnext|wide_resnet)\d", backbone)
    return "small" if small and resnet else "imagenet"
