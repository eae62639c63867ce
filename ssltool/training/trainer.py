"""Everything a run needs, put together: images, method, optimizer, number format, checkpoint; and
its steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.optim import Optimizer

import ssltool
from ssltool.data.loader import AllImages, TrainBatches
from ssltool.data.sources.base import Source
from ssltool.device import choose_device, repeat_exactly
from ssltool.distributed.batch_norm import synchronize_batch_norm
from ssltool.distributed.collectives import copy_from_main, from_main, is_main, rank, world_size
from ssltool.encoders.metadata import LIGHTNESS_NORM, EncoderMetadata
from ssltool.encoders.precision import Precision, choose_precision
from ssltool.encoders.sizes import check_input
from ssltool.encoders.weights import describe as describe_weights
from ssltool.encoders.weights import find_weights, load_backbone
from ssltool.errors import CheckpointError, UsageError
from ssltool.methods.base import Method
from ssltool.ops.per_image_rng import mix
from ssltool.probing.online import Follower
from ssltool.runs import checkpoint
from ssltool.runs import folder as runs
from ssltool.runs.config import Choice, PretrainOptions
from ssltool.training.loop import Plan, StepReport, train
from ssltool.training.optim import build_optimizer
from ssltool.training.start import new_run
from ssltool.training.tensorboard import Board, require_tensorboard

_CACHE_BYTES = 2**30  # decoded images kept in memory when all of them fit


@dataclass
class Session:
    """Everything a run needs, ready to take its next step; of several processes each has its own."""

    run: runs.Run
    source: Source
    method: Method[Any, Any]
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batches: TrainBatches
    plan: Plan
    start: int
    device: torch.device
    follower: Follower | None
    skipped: dict[str, str] = field(
        default_factory=dict
    )  # by any process, as of the last checkpoint
    board: Board | None = None  # opened when the run begins


def open_session(choice: Choice, console: Console, cache_bytes: int) -> Session:
    """A run that is never written anywhere, to measure it."""
    run, source = new_run(choice, overwrite=False, dry_run=True)
    return prepare(run, source, console, resume=False, cache_bytes=cache_bytes)


def prepare(
    run: runs.Run,
    source: Source,
    console: Console,
    *,
    resume: bool,
    cache_bytes: int = _CACHE_BYTES,
) -> Session:
    """Build everything of a run and, on resume, load its newest checkpoint."""
    options = run.choice.run
    assert options.image_size and options.batch_size and options.steps and options.lr is not None, (
        "resolved"
    )
    assert options.weight_decay is not None and options.warmup is not None and options.channels, (
        "resolved"
    )
    if options.tensorboard:
        require_tensorboard()
    device = choose_device(options.device)
    repeat_exactly(device)
    torch.manual_seed(mix(options.seed))  # first weights
    method = runs.build_method(run.choice, run.info)
    if run.facts and method.facts != run.facts:
        raise CheckpointError(
            f"the task of {run.folder} was built from {run.facts}, now it would be "
            f"{method.facts}; start a new run"
        )
    size = method.network_size(run.choice.task, run.info)
    _check_input(method, size, run.info.image_size)
    if options.init is not None:
        matched = load_backbone(method.encoder, find_weights(options.init))
        console.print(f"first weights: {matched} tensors from {options.init}")
    method.to(device)
    method.to(memory_format=torch.channels_last)  # decoders and color heads too
    precision = _precision(run, method, size, device)
    if options.sync_batchnorm:
        synchronize_batch_norm(method, device)
    optimizer = build_optimizer(
        method,
        options.optimizer,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        rates=method.rates,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision.name == "fp16")
    batches = TrainBatches(
        source,
        size=options.load_size or options.image_size,
        batch_size=options.batch_size,
        seed=options.seed,
        workers=options.workers,
        rank=rank(),
        world=world_size(),
        device=device,
        cache_bytes=cache_bytes,
    )
    per_epoch = max(1, batches.steps_per_epoch // options.accumulate)
    plan = Plan(
        steps=options.steps,
        warmup=min(round(options.warmup * per_epoch), options.steps - 1),
        lr=options.lr,
        schedule=options.schedule,
        accumulate=options.accumulate,
        clip=options.clip,
        seed=options.seed,
        precision=precision,
    )
    start = 0
    place = from_main(lambda: str(checkpoint.newest(run.folder) or "")) if resume else ""
    if place:
        state = checkpoint.load(Path(place), method, optimizer)
        scaler.load_state_dict(state["scaler"])
        start = state["step"]
    else:
        _look_first(method, source, options, device, console)
    held = chain(method.named_parameters(), method.named_buffers())
    copy_from_main(tensor for name, tensor in held if name not in method.sharded)
    if options.compile:
        method.encoder.compile()
    run = replace(run, facts=method.facts, precision=precision.name)
    follower = None
    if options.probe_data and is_main():
        follower = Follower(options.probe_data, options.batch_size, options.seed)
    return Session(run, source, method, optimizer, scaler, batches, plan, start, device, follower)


def steps(session: Session) -> Iterator[StepReport]:
    """The loop over this session's own batches."""
    batches = session.batches.from_step(session.start * session.plan.accumulate)
    return train(
        session.method, batches, session.optimizer, session.plan, session.scaler, session.start
    )


def metadata(session: Session, step: int) -> EncoderMetadata:
    """What the weights file says of itself; a function of the run, not of the clock, so equal runs
    give equal bytes.
    """
    run, method, options = session.run, session.method, session.run.choice.run
    encoder = method.encoder
    mean: tuple[float, ...] = run.info.mean
    std: tuple[float, ...] = run.info.std
    if method.color_space == "lightness":
        mean, std = LIGHTNESS_NORM
    elif encoder.in_channels == 1:  # it reads the mean of R, G and B
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return describe_weights(
        encoder,
        method=run.choice.method,
        color_space=method.color_space,
        image_size=method.feature_size(run.choice.task, run.info),
        patch=method.patch_grid(run.choice.task, run.info),
        mean=mean,
        std=std,
        training={
            "ssltool": ssltool.__version__,
            "steps": step,
            "batch_size": (options.batch_size or 0) * (options.devices or 1) * options.accumulate,
            "images": run.info.count,
            "read_size": run.info.image_size,
            "optimizer": options.optimizer,
            "lr": session.plan.lr,
            "seed": options.seed,
            "precision": run.precision,
        },
    )


def peak_memory(device: torch.device) -> float:
    """Most memory used so far, in bytes: the GPU's when training on one, else this process's."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def _precision(
    run: runs.Run, method: Method[Any, Any], size: int, device: torch.device
) -> Precision:
    """The number format: as the run began, or what the first process finds best."""
    if run.precision:
        return Precision(run.precision, "as the run began")  # type: ignore[arg-type]
    asked, channels = run.choice.run.precision, run.choice.run.channels or 3
    return Precision(
        **from_main(lambda: asdict(choose_precision(asked, method.encoder, size, channels, device)))
    )


def _look_first(
    method: Method[Any, Any],
    source: Source,
    options: PretrainOptions,
    device: torch.device,
    console: Console,
) -> None:
    """Let the method learn from the images what it must know before the first step; all processes
    learn the same.
    """
    assert options.image_size and options.batch_size, "resolved"
    places = torch.randperm(
        len(source), generator=torch.Generator().manual_seed(mix(options.seed))
    ).tolist()
    images = AllImages(
        source,
        size=options.image_size,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        indices=places,
    )
    with images, console.status("looking at the images"):
        said = method.prepare((batch.images, batch.indices) for batch in images)
    if said:
        console.print(said)


def _check_input(method: Method[Any, Any], size: int, read_size: int) -> None:
    """Make sure that the encoder can take what the task gives it, which may be a piece of an image."""
    try:
        check_input(method.encoder, size)
    except UsageError as error:
        if size == read_size:
            raise
        raise UsageError(
            f"the task gives the encoder {size} px pieces of the {read_size} px images, but {error}"
        ) from error
