"""Options of ``ssltool pretrain`` for every method, as asked for and as resolved."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ssltool.options import (
    LARGEST_CHANNELS,
    LARGEST_SIDE,
    SMALLEST_SIDE,
    DeviceName,
    Options,
    devices_option,
    option,
    seed_option,
)
from ssltool.runs.duration import parse_duration

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
_Positive = Annotated[int, Field(ge=1)]


class RunOptions(Options):
    """Options of every pretraining run. None means decided from the data when the run starts."""

    data: tuple[str, ...] = option(
        (),
        "Folder of images at any depth, tar shards, zip file, CSV or JSON-lines manifest, Parquet "
        "files, videos as clip.mp4[?every=N], hf:NAME, URL, torchvision:NAME@ROOT, or demo[:N] for "
        "N synthetic images; required for a new run; may be repeated",
        panel="Data",
        images=True,
    )
    image_size: int | None = option(
        None,
        "Side in px of the center squares read from the files; automatic: from the images, at "
        "most 256",
        panel="Data",
        ge=SMALLEST_SIDE,
        le=LARGEST_SIDE,
    )
    load_size: int | None = option(
        None,
        "Side in px at which images are read in training, if larger than --image-size: random "
        "crops are cut from them and resized; automatic: --image-size",
        panel="Data",
        ge=SMALLEST_SIDE,
        le=LARGEST_SIDE,
    )
    framing: Literal["square", "whole"] | None = option(
        None,
        "What random crops are cut from in training: the center square, or the whole image; "
        "automatic: whole, or square for methods that cut no random crops",
        panel="Data",
    )
    content_hash: bool = option(
        False,
        "Identify the images by their content, not by size and modification time, so that a run "
        "can be resumed on a copy of them; reads every file",
        panel="Data",
    )
    decode: Literal["cpu", "gpu"] = option(
        "cpu",
        "Where JPEG files are decoded in training; gpu: baseline ones on CUDA, with slightly other "
        "pixels and without noticing all damage; the rest, and all without CUDA, on the CPU",
        panel="Data",
    )
    workers: int | None = option(
        None,
        "Processes that decode images; automatic: from the cores",
        panel="Data",
        ge=0,
        le=256,
    )
    backbone: str | None = option(
        None,
        "Network of torchvision, timm (timm/NAME), a small ResNet or a paper's; automatic: "
        "resnet10_w32 up to 64 px, else resnet18",
        panel="Model",
    )
    stem: Literal["auto", "imagenet", "small"] = option(
        "auto", "First layers of a ResNet; small is 3x3, stride 1, no max-pool", panel="Model"
    )
    channels: int | None = option(
        None,
        "Channels of the images: 3 for RGB, 1 for an encoder that reads the mean of R, G and B; "
        "any other number reads files as they are (TIFF of many bands or 16 bits, .npy, DICOM), "
        "and so do 1 and 3 with --value-range; automatic: 3, or 1 for methods that read lightness",
        panel="Data",
        ge=1,
        le=LARGEST_CHANNELS,
    )
    value_range: str | None = option(
        None,
        "Values that become 0 and 255 where files are read as they are: LOW,HIGH, or such a pair "
        "for each channel in turn; auto: the percentiles 0.1 and 99.9 of a sample of the images; "
        "automatic: auto where --channels is not 1 or 3",
        panel="Data",
        metavar="RANGE",
    )
    init: Path | None = option(
        None,
        "Initial weights: a run folder or a .safetensors file of ssltool, torchvision, timm or "
        "DINO-style training",
        panel="Model",
    )
    epochs: float | None = option(
        None,
        "Passes over the data; automatic: about 100,000 images, 10 to 200 passes",
        panel="Optimization",
        gt=0,
    )
    steps: int | None = option(
        None,
        "Optimizer steps, instead of --epochs; either with --resume gives a run a new length, to "
        "which its schedule is stretched",
        panel="Optimization",
        ge=1,
    )
    budget: str | None = option(
        None,
        "Wall time of the run, such as 90s, 20m or 2h, instead of --epochs or --steps: a few steps "
        "are timed, and backbone, image size, batch and steps are chosen to fit, as far as they "
        "are not given; automatic: 15m on a CPU",
        panel="Optimization",
        metavar="TIME",
    )
    batch_size: int | None = option(
        None,
        "Images per batch and process; automatic: 256 up to 64 px, else 64",
        panel="Optimization",
        ge=2,
    )
    accumulate: int = option(
        1, "Batches whose gradients are averaged into one step", panel="Optimization", ge=1
    )
    optimizer: Literal["sgd", "adamw", "lars"] = option(
        "adamw", "Update rule", panel="Optimization"
    )
    lr: float | None = option(
        None,
        "Peak learning rate; automatic: sgd 0.1 and lars 4.8 per 256 images of a step, adamw 0.001",
        panel="Optimization",
        gt=0,
    )
    weight_decay: float | None = option(
        None,
        "L2 penalty on matrices and kernels; automatic: adamw 0.05, else 0.0001",
        panel="Optimization",
        ge=0,
    )
    decay_all: bool = option(
        False,
        "Decay vectors (biases, norms) as well, as an optimizer does that is given all parameters "
        "alike",
        panel="Optimization",
    )
    momentum: float = option(
        0.9, "Momentum of sgd and lars, beta1 of adamw", panel="Optimization", ge=0, lt=1
    )
    beta2: float = option(0.999, "Beta2 of adamw", panel="Optimization", ge=0, lt=1)
    warmup: float | None = option(
        None,
        "Epochs of linear warm-up; automatic: a twentieth of the run",
        panel="Optimization",
        ge=0,
    )
    schedule: Literal["cosine", "step", "constant"] = option(
        "cosine",
        "Learning-rate schedule; step drops at --milestones",
        panel="Optimization",
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = option(
        (0.6, 0.8),
        "Fractions of the run, ascending, at which --schedule step multiplies the rate by --factor",
        panel="Optimization",
        comma=True,
    )
    factor: float = option(
        0.1,
        "What --schedule step multiplies the rate by at each milestone",
        panel="Optimization",
        gt=0,
        lt=1,
    )
    clip: float = option(
        0.0, "Maximum gradient norm; 0 disables clipping", panel="Optimization", ge=0
    )
    ema: float = option(
        0.0,
        "Decay of a moving average of the encoder's weights, such as 0.9999; the average is then "
        "what is saved, probed and exported; 0 = the weights of the last step",
        panel="Optimization",
        ge=0,
        lt=1,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Compute precision; auto takes the fastest on this machine", panel="Optimization"
    )
    sync_batchnorm: bool = option(
        False,
        "Batch-norm statistics over the batches of all processes (CUDA only)",
        panel="Optimization",
    )
    compile: bool = option(
        False, "Use torch.compile; measured to gain nothing on a CPU", panel="Optimization"
    )
    out: Path | None = option(None, "Run folder; automatic: runs/METHOD-N", panel="Run")
    device: DeviceName = option("auto", "Device to train on", panel="Run")
    devices: int | None = devices_option("train together")
    all_reduce: Literal["overlap", "single"] | None = option(
        None,
        "How processes average gradients: in buckets during the backward pass, or by a single sum "
        "after it; automatic: overlap on CUDA, else single",
        panel="Run",
    )
    max_restarts: int = option(
        3,
        "With --devices: how often to resume from the last checkpoint after a process was killed",
        panel="Run",
        ge=0,
    )
    seed: int = seed_option("Seed of everything random", panel="Run")
    checkpoint_every: int | None = option(
        None,
        "Steps between checkpoints; automatic: an epoch, within 100 to 2000 steps",
        panel="Run",
        ge=1,
    )
    keep: int = option(2, "Checkpoints kept", panel="Run", ge=1)
    log_every: int = option(
        10, "Steps averaged into one line of metrics.jsonl", panel="Monitoring", ge=1
    )
    probe_data: tuple[str, ...] = option(
        (),
        "Labeled images, a folder per class, for online kNN accuracy: a fifth of at most 5000 "
        "is held out; training does not change, and the best encoder is kept beside the newest",
        panel="Monitoring",
        images=True,
    )
    probe_every: int | None = option(
        None,
        "Steps between online kNN evaluations; automatic: at each checkpoint",
        panel="Monitoring",
        ge=1,
    )
    track: tuple[TrackerName, ...] = option(
        (),
        "Also write metrics, options and figures for tensorboard, mlflow, wandb, to a folder of "
        "that name in RUN, without a network; each is an extra, such as ssltool[mlflow]",
        panel="Monitoring",
        comma=True,
    )

    @field_validator("milestones")
    @classmethod
    def _ascend(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError("ascending fractions of the run, such as 0.6,0.8")
        return value

    @property
    def as_they_are(self) -> bool:
        """Whether images are read as they are, and not as RGB."""
        return self.value_range is not None or self.channels not in (None, 1, 3)

    @field_validator("budget")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value


# May differ when a run is resumed: none of these changes a metric of the run.
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
        "track",
    }
)


class ResolvedOptions(RunOptions):
    """`RunOptions` with nothing left open. ``steps`` says the length, so ``epochs`` and ``budget``
    are None.
    """

    image_size: Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
    backbone: str
    stem: Literal["imagenet", "small"]
    framing: Literal["square", "whole"]
    channels: Annotated[int, Field(ge=1, le=LARGEST_CHANNELS)]
    epochs: None = None
    budget: None = None
    steps: _Positive
    batch_size: _Positive
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Annotated[float, Field(ge=0)]
    devices: _Positive
    all_reduce: Literal["overlap", "single"] = "single"
    checkpoint_every: _Positive
