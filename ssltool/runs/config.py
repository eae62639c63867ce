"""The options of a pretraining run: declared once, merged from preset, file and flags, and decided
from the data.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssltool.distributed.collectives import world_size
from ssltool.errors import UnknownNameError, UsageError
from ssltool.methods.base import DataInfo, Method, MethodOptions

_SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256)
_SMALL = 64  # px: up to here images get the small stem and, by default, the small ResNet
# what an automatic run looks at: minutes on a laptop for small images, about an hour for large
_PICTURES_SEEN = 100_000


class PretrainOptions(BaseModel):
    """Options common to ``ssltool pretrain METHOD``; None means decided from the data and printed
    before it starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(
        ("demo",), description="Folder of images at any depth, or demo[:N]; may be repeated"
    )
    out: Path | None = Field(None, description="Run folder; automatic: runs/METHOD-N")
    backbone: str | None = Field(
        None,
        description="A torchvision, small or paper's network; automatic: resnet10_w32 or resnet18",
    )
    stem: Literal["auto", "imagenet", "small"] = Field(
        "auto", description="small = 3x3 stride 1 without max-pool (ResNets)"
    )
    channels: Literal[1, 3] | None = Field(
        None,
        description="Input channels of the encoder; 1 reads the mean of R, G and B; "
        "automatic: 3, or 1 for methods that read lightness",
    )
    init: Path | None = Field(
        None,
        description="Start from these weights (a run folder or a .safetensors file) instead of "
        "random ones",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side in px of the center squares read from the files; automatic: from the "
        "images, at most 256",
    )
    load_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side in px of the squares read in training, if larger: random crops are cut "
        "from them and resized "
        "to --image-size, so that they are as sharp as whole images; automatic: --image-size",
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the data; automatic: about 100,000 images, 10 to 200 passes",
    )
    steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of --epochs")
    batch_size: int | None = Field(
        None, ge=2, description="Images per step and process; automatic: 256 up to 64 px, else 64"
    )
    accumulate: int = Field(1, ge=1, description="Batches averaged into one step")
    optimizer: Literal["sgd", "adamw", "lars"] = Field("adamw", description="Update rule")
    lr: float | None = Field(
        None,
        gt=0,
        description="Highest learning rate; automatic: sgd 0.1, lars 4.8 per 256 images of a "
        "step, adamw 0.001",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="L2 penalty on matrices and kernels; automatic: adamw 0.05, else 0.0001",
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of sgd and lars, first beta of adamw"
    )
    warmup: float | None = Field(
        None, ge=0, description="Epochs of linear warm-up; automatic: a twentieth of the run"
    )
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="Fall of the learning rate; step divides by ten three times"
    )
    clip: float = Field(0.0, ge=0, description="Largest gradient norm; 0 = not clipped")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the forward pass; auto takes the fastest here"
    )
    compile: bool = Field(False, description="Use torch.compile; measured to gain nothing on a CPU")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to train")
    devices: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Processes that train together on this machine, one to a GPU; on a CPU they "
        "share the cores; "
        "automatic: 1, or as torchrun says",
    )
    max_restarts: int = Field(
        3,
        ge=0,
        description="With --devices: how often to go on from the last checkpoint after a process "
        "was killed",
    )
    sync_batchnorm: bool = Field(
        False,
        description="Batch norm over the batches of all processes (CUDA only); otherwise each "
        "normalizes by its own",
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="Processes that decode images; automatic: from the cores"
    )
    seed: int = Field(0, ge=0, description="Seed of everything random")
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="Steps between checkpoints; automatic: an epoch, within 100 to 2000 steps",
    )
    keep: int = Field(2, ge=1, description="Checkpoints kept")
    log_every: int = Field(10, ge=1, description="Steps averaged into one line of metrics.jsonl")
    probe_data: tuple[str, ...] = Field(
        (),
        description="Labeled images, a folder per class, by which to follow the training: a kNN "
        "accuracy is "
        "measured on a fifth of at most 5000 of them; the training itself does not change",
    )
    probe_every: int | None = Field(
        None, ge=1, description="Steps between these; automatic: at each checkpoint"
    )
    tensorboard: bool = Field(
        False,
        description="Also write numbers and images for TensorBoard, to RUN/tensorboard "
        "(ssltool[tensorboard])",
    )


# What may differ when a run is resumed: none of these changes a number of the run.
FREE_ON_RESUME = frozenset(
    {
        "out",
        "workers",
        "checkpoint_every",
        "keep",
        "log_every",
        "device",
        "devices",
        "max_restarts",
        "probe_data",
        "probe_every",
        "tensorboard",
    }
)


class Choice(BaseModel):
    """A validated request: which method, with which run options and method options."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    method: str
    run: PretrainOptions
    task: MethodOptions

    def flat(self) -> dict[str, Any]:
        """All options by name, in JSON kinds."""
        return {**self.run.model_dump(mode="json"), **self.task.model_dump(mode="json")}


def combine(
    name: str,
    method: type[Method[Any, Any]],
    given: Mapping[str, Any],
    preset: str | None = None,
    config: Path | None = None,
) -> Choice:
    """Merge preset, configuration file and given options (the later wins) and validate them all at
    once.

    Args:
        name: The method's name.
        method: Its class.
        given: Options by field name, as typed.
        preset: One of the method's presets.
        config: TOML or JSON file of options by name, or a run's ``run.json``.

    Raises:
        UsageError: Unknown or invalid options; one line naming every faulty flag.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        if preset not in method.presets:
            raise UnknownNameError(f"preset of {name}", preset, method.presets)
        values |= method.presets[preset]
        if (given.get("image_size") or 0) > (values.get("load_size") or math.inf):
            del values["load_size"]  # it was more than the preset's own image size
    if config is not None:
        values |= _from_file(config, name)
    values |= given
    if given.get("steps") is not None and given.get("epochs") is None:
        values["epochs"] = None
    elif given.get("epochs") is not None and given.get("steps") is None:
        values["steps"] = None
    return validated(name, method, values)


def validated(name: str, method: type[Method[Any, Any]], values: Mapping[str, Any]) -> Choice:
    """Split options between the run and the method and validate both, reporting all faults in one
    line.
    """
    run_fields, task_fields = PretrainOptions.model_fields, method.Options.model_fields
    for option in values:
        if option not in run_fields and option not in task_fields:
            raise UnknownNameError(
                "option",
                option,
                [*run_fields, *task_fields],
                hint=f"'ssltool pretrain {name} --help' lists them",
            )
    faults: list[str] = []
    parts: list[BaseModel] = []
    for model in (PretrainOptions, method.Options):
        try:
            parts.append(
                model.model_validate({k: v for k, v in values.items() if k in model.model_fields})
            )
        except ValidationError as error:
            faults += [describe_fault(fault) for fault in error.errors()]
    if faults:
        raise UsageError("; ".join(faults))
    run, task = parts
    assert isinstance(run, PretrainOptions)
    assert isinstance(task, MethodOptions)
    if run.epochs is not None and run.steps is not None:
        raise UsageError("--epochs and --steps both say how long to train; type one of them")
    return Choice(method=name, run=run, task=task)


def describe_fault(fault: Mapping[str, Any]) -> str:
    """One of pydantic's error records as ``--flag VALUE: what is expected``."""
    flag = "--" + str(fault["loc"][0]).replace("_", "-") if fault["loc"] else "options"
    message = str(fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return (
        f"{flag} {fault['input']}: should be {message}"
        if message[:1].islower()
        else f"{flag} {fault['input']}: {message}"
    )


def resolved(choice: Choice, method: type[Method[Any, Any]], info: DataInfo) -> Choice:
    """Decide everything left open but the image size, which ``info`` has; only what stays unused is
    None afterwards.

    Raises:
        UsageError: The options do not fit the images.
    """
    run = choice.run
    _check_load_size(run.load_size, choice.method, method, info.image_size)
    small = info.image_size <= _SMALL
    backbone = run.backbone or ("resnet10_w32" if small else "resnet18")
    processes = world_size()
    batch = run.batch_size or min(
        256 if small else 64, 2 ** max(0, (info.count // processes).bit_length() - 1)
    )
    images = batch * processes * run.accumulate
    per_epoch = max(1, info.count // images)
    epochs = run.epochs or (
        run.steps / per_epoch
        if run.steps
        else min(200, max(10, round(_PICTURES_SEEN / info.count)))
    )
    steps = run.steps or max(1, round(epochs * per_epoch))
    scale = images / 256
    rates = {"sgd": 0.1 * scale, "lars": 4.8 * scale, "adamw": 1e-3}
    decays = {"sgd": 1e-4, "lars": 1e-4, "adamw": 0.05}
    update = {
        "image_size": info.image_size,
        "backbone": backbone,
        "channels": _channels(run.channels, choice.method, method),
        "stem": _stem(run.stem, backbone, small),
        "batch_size": batch,
        "devices": processes,
        "epochs": None,  # said by steps from here on
        "steps": steps,
        "lr": run.lr or rates[run.optimizer],
        "weight_decay": decays[run.optimizer] if run.weight_decay is None else run.weight_decay,
        "warmup": epochs / 20 if run.warmup is None else run.warmup,
        "checkpoint_every": run.checkpoint_every or max(100, min(per_epoch, 2000)),
    }
    return choice.model_copy(
        update={"run": run.model_copy(update=update), "task": choice.task.resolved(info)}
    )


def automatic_size(short_side: int) -> int:
    """The largest usual image size that does not enlarge the typical image, 28 to 256 px."""
    return max([size for size in _SIZES if size <= short_side], default=_SIZES[0])


def _check_load_size(
    asked: int | None, name: str, method: type[Method[Any, Any]], image_size: int
) -> None:
    if asked is None or asked == image_size:
        return
    if not method.crops:
        raise UsageError(
            f"--load-size {asked}: {name} cuts no random crops; leave it out, or type "
            f"--image-size {asked}"
        )
    if asked < image_size:
        raise UsageError(
            f"--load-size {asked} is less than the images' {image_size} px; type {image_size} or "
            "more, or drop it"
        )


def _channels(asked: int | None, name: str, method: type[Method[Any, Any]]) -> int:
    if method.color_space != "lightness":
        return asked or 3
    if asked == 3:
        raise UsageError(
            f"--channels 3: {name} reads lightness, which is one channel; drop it or type "
            "--channels 1"
        )
    return 1


def _stem(asked: str, backbone: str, small: bool) -> str:
    if asked != "auto":
        return asked
    if backbone.startswith(("resnet10_", "resnet20", "resnet32", "resnet44", "resnet56")):
        return "small"
    return (
        "small"
        if small and backbone.startswith(("resnet", "resnext", "wide_resnet"))
        else "imagenet"
    )


def _from_file(path: Path, method: str) -> dict[str, Any]:
    """Options of a TOML or JSON file; a ``run.json`` holds them under ``options``."""
    try:
        text = path.read_text(encoding="utf-8")
        document: dict[str, Any] = (
            json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        )
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--config {path} is neither TOML nor JSON: {error}") from error
    named = document.get("method", method)
    if named != method:
        raise UsageError(
            f"--config {path} is for {named}; type 'ssltool pretrain {named} --config {path}'"
        )
    options = document.get("options", {k: v for k, v in document.items() if k != "method"})
    if not isinstance(options, dict):
        raise UsageError(f"--config {path}: options should be a table")
    return {name: value for name, value in options.items() if name != "out" and value is not None}
