"""A trainer: a run's method, optimizer, batches and schedule, built and ready for its next step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.optim import Optimizer

import ssltool
from ssltool.data.gpu_jpeg import JpegDecoder, cuda_decoder
from ssltool.data.loader import AllImages, TrainBatches
from ssltool.data.sources.base import Source
from ssltool.device import choose_device, repeat_exactly
from ssltool.distributed.batch_norm import synchronize_batch_norm
from ssltool.distributed.collectives import copy_from_main, from_main, rank, world_size
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.initial_weights import initialize
from ssltool.encoders.metadata import (
    LIGHTNESS_NORM,
    ColorSpace,
    EncoderMetadata,
    InitialWeights,
    TrainingSummary,
)
from ssltool.encoders.precision import Precision, choose_precision
from ssltool.encoders.projection import Projection
from ssltool.encoders.weights import describe
from ssltool.errors import CheckpointError
from ssltool.methods.base import Method
from ssltool.ops.per_image_rng import mix
from ssltool.runs import checkpoint
from ssltool.runs.config import ResolvedConfig
from ssltool.runs.environment import environment
from ssltool.runs.folder import build_method
from ssltool.runs.options import ResolvedOptions
from ssltool.runs.records import (
    BudgetRecord,
    Extension,
    MetricRecord,
    PrecisionRecord,
    RunRecord,
    SourceRecord,
)
from ssltool.training.average import MovingAverage
from ssltool.training.loop import StepReport, TrainSchedule, train
from ssltool.training.optim import build_optimizer
from ssltool.training.start import Start

CACHE_BYTES = 2**30  # decoded images kept in memory when all of them fit


@dataclass
class Trainer:
    """Everything that takes part in a step; of several processes each has its own.

    Attributes:
        config: Every option, decided.
        source: The images.
        fingerprint: Identifies the images.
        method: The task with its encoder, on the device.
        optimizer: Over the method's parameters.
        scaler: Loss scaler; enabled for fp16.
        batches: Training batches of this process.
        schedule: How steps are taken.
        first_step: Steps taken before, by the run that is resumed.
        device: Where the method is.
        extended: Every new length that the run was given.
        budget: The wall time that decided the options, if one did.
        skipped_steps: Steps that the loss scaler skipped, see `ssltool.training.loop.train`.
        average: Of the encoder's weights, with ``--ema``.
        initial: What was taken from the file of ``--init``.
        probe_images: Identifies the images of the online kNN accuracies before ``first_step``;
            empty if there were none.
    """

    config: ResolvedConfig
    source: Source
    fingerprint: str
    method: Method[Any, Any]
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batches: TrainBatches
    schedule: TrainSchedule
    first_step: int
    device: torch.device
    extended: tuple[Extension, ...]
    budget: BudgetRecord | None = None
    skipped_steps: int = 0
    average: MovingAverage | None = None
    initial: InitialWeights | None = None
    probe_images: str = ""

    @classmethod
    def build(
        cls,
        start: Start,
        console: Console,
        cache_bytes: int = CACHE_BYTES,
        *,
        prepare: bool = True,
    ) -> Trainer:
        """Build a trainer and, on resume, load the newest checkpoint.

        Args:
            start: A new run or one to resume.
            console: Where remarks go.
            cache_bytes: Decoded images kept in memory at most.
            prepare: Whether the method learns from the images what it must know first; without it
                steps can be timed, not trained.

        Raises:
            UsageError: The device, the initial weights or the encoder do not suit the run.
            CheckpointError: The run to resume was built from something else, or is damaged.
        """
        config, options = start.config, start.config.run
        device = choose_device(options.device)
        repeat_exactly(device)
        torch.manual_seed(mix(options.seed))  # initial weights
        method = _build(start)
        initial = None
        if options.init is not None:
            initial = initialize(method.encoder, options.init)
            console.print(f"initial weights from {options.init}: {initial.line()}")
        method.to(device)
        method.to(memory_format=torch.channels_last)  # decoders and color heads too
        precision = _precision(start, method, device)
        if options.sync_batchnorm:
            synchronize_batch_norm(method, device)
        scaler = torch.amp.GradScaler(device.type, enabled=precision.name == "fp16")
        batches = TrainBatches(
            start.source,
            size=options.load_size or options.image_size,
            batch_size=options.batch_size,
            seed=options.seed,
            workers=options.workers,
            rank=rank(),
            world=world_size(),
            device=device,
            cache_bytes=cache_bytes,
            whole=options.framing == "whole",
            decoder=_decoder(options, device, console),
        )
        trainer = cls(
            config,
            start.source,
            start.fingerprint,
            method,
            _optimizer(method, options),
            scaler,
            batches,
            _schedule(config, batches.steps_per_epoch, precision),
            0,
            device,
            start.extended,
            start.resumed.budget if start.resumed else None,
            initial=initial,
        )
        if options.ema:
            trainer.average = MovingAverage(method.encoder, method.projection, options.ema)
        if prepare:
            trainer._load_or_prepare(start, console)
        if options.compile:
            method.encoder.compile()
        return trainer

    def with_length(self, config: ResolvedConfig, budget: BudgetRecord) -> Trainer:
        """A new run's trainer with the length of another configuration, equal in all else."""
        schedule = _schedule(config, self.batches.steps_per_epoch, self.schedule.precision)
        return replace(self, config=config, schedule=schedule, budget=budget)

    def steps(self) -> Iterator[StepReport]:
        """The training loop over this process's batches, from ``first_step``."""
        batches = self.batches.from_step(self.first_step * self.schedule.accumulate)
        for report in train(
            self.method,
            batches,
            self.optimizer,
            self.schedule,
            self.scaler,
            self.first_step,
            self.skipped_steps,
        ):
            if self.average is not None and report.skipped == self.skipped_steps:
                method, taken = self.method, report.step - report.skipped
                self.average.update(method.encoder, method.projection, taken - 1)
            self.skipped_steps = report.skipped
            yield report

    @property
    def encoder(self) -> Encoder:
        """The encoder that is saved: the average of the steps, or that of the last one."""
        return self.method.encoder if self.average is None else self.average.encoder

    @property
    def projection(self) -> Projection | None:
        """The projection that is saved beside it; None if the method has none."""
        return self.method.projection if self.average is None else self.average.projection

    def record(self, online: tuple[MetricRecord, ...] = ()) -> RunRecord:
        """The run's ``run.json``.

        Args:
            online: Metrics beyond the method's own.
        """
        precision = self.schedule.precision
        return RunRecord(
            ssltool=ssltool.__version__,
            method=self.config.method,
            options=self.config.options(),
            precision=PrecisionRecord(name=precision.name, reason=precision.reason),
            source=SourceRecord(description=self.source.description, fingerprint=self.fingerprint),
            data=self.config.data,
            fingerprint=self.method.fingerprint,
            metrics=tuple(
                MetricRecord(name=metric.name, unit=metric.unit, chance=metric.chance)
                for metric in self.method.metrics
            )
            + online,
            environment=environment(self.device),
            extended=self.extended,
            budget=self.budget,
            initial_weights=self.initial,
        )

    def metadata(self, step: int) -> EncoderMetadata:
        """What the weights file says of itself after ``step`` steps.

        A function of the run and not of the clock, so that equal runs give equal bytes.
        """
        config, method, options = self.config, self.method, self.config.run
        inputs = method.inputs(config.task, config.data)
        mean: tuple[float, ...] = config.data.mean
        std: tuple[float, ...] = config.data.std
        color_space: ColorSpace = inputs.color_space if config.data.rgb else "channels"
        if color_space == "lightness":
            mean, std = LIGHTNESS_NORM
        elif config.data.rgb and method.encoder.in_channels == 1:  # it reads the mean of R, G and B
            mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        return describe(
            method.encoder,
            method=config.method,
            color_space=color_space,
            value_range=config.data.value_range,
            value_type=config.data.value_type,
            image_size=inputs.feature_size,
            patch=inputs.patch_grid,
            mean=mean,
            std=std,
            standardize=inputs.standardize,
            training=TrainingSummary(
                ssltool=ssltool.__version__,
                steps=step,
                batch_size=options.batch_size * options.devices * options.accumulate,
                images=config.data.count,
                read_size=config.data.image_size,
                optimizer=options.optimizer,
                lr=options.lr,
                seed=options.seed,
                precision=self.schedule.precision.name,
                ema=options.ema,
            ),
        )

    def _load_or_prepare(self, start: Start, console: Console) -> None:
        """Load the newest checkpoint, or let the method learn what it must know first."""
        newest = ""
        if start.resumed is not None and start.folder is not None:
            folder = start.folder
            newest = from_main(lambda: str(checkpoint.newest(folder) or ""))
        if newest:
            like = {"scaler": self.scaler.state_dict()}
            average = None if self.average is None else self.average.state
            state = checkpoint.load(Path(newest), self.method, self.optimizer, like, average)
            self.scaler.load_state_dict(state["scaler"])
            self.first_step = state["step"]
            self.skipped_steps = state["skipped_steps"]
            self.probe_images = str(state.get("probe_images", ""))
        else:
            self._prepare(console)
        state_tensors = chain(self.method.named_parameters(), self.method.named_buffers())
        sharded = self.method.sharded_buffers
        copy_from_main(tensor for name, tensor in state_tensors if name not in sharded)
        if self.average is not None:
            copy_from_main(self.average.state.state_dict().values())

    def _prepare(self, console: Console) -> None:
        """Run the method's pass over the data; all processes learn the same from it."""
        options = self.config.run
        generator = torch.Generator().manual_seed(mix(options.seed))
        images = AllImages(
            self.source,
            size=options.image_size,
            batch_size=options.batch_size,
            workers=options.workers,
            device=self.device,
            indices=torch.randperm(len(self.source), generator=generator).tolist(),
        )
        with images, console.status("data statistics pass"):
            remark = self.method.prepare((batch.images, batch.indices) for batch in images)
        if remark:
            console.print(remark)


def peak_memory(device: torch.device) -> float:
    """Peak memory so far in bytes: of the GPU when training on one, else of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def _build(start: Start) -> Method[Any, Any]:
    """The untrained method; on resume, what it is built from must be what it was."""
    config = start.config
    method = build_method(config)
    if start.resumed is not None and method.fingerprint != start.resumed.fingerprint:
        raise CheckpointError(
            f"the task of {start.folder} was built from {start.resumed.fingerprint}, now it would "
            f"be {method.fingerprint}; start a new run"
        )
    return method


def _decoder(
    options: ResolvedOptions, device: torch.device, console: Console
) -> JpegDecoder | None:
    """The decoder of ``--decode gpu``, if there is one."""
    if options.decode == "cpu":
        return None
    decoder = cuda_decoder(device)
    if decoder is None:
        console.print(f"--decode gpu: no decoder for {device.type}; images are decoded on the CPU")
    return decoder


def _optimizer(method: Method[Any, Any], options: ResolvedOptions) -> Optimizer:
    return build_optimizer(
        method,
        options.optimizer,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        beta2=options.beta2,
        decay_all=options.decay_all,
        lr_scales=method.lr_scales,
    )


def _precision(start: Start, method: Method[Any, Any], device: torch.device) -> Precision:
    """Compute precision: as the run began, or what the first process measures as best."""
    if start.resumed is not None:
        return Precision(start.resumed.precision.name, start.resumed.precision.reason)
    config = start.config
    size = method.inputs(config.task, config.data).train_size

    def choose() -> dict[str, Any]:
        asked, channels = config.run.precision, config.run.channels
        return asdict(choose_precision(asked, method.encoder, size, channels, device))

    return Precision(**from_main(choose))


def _schedule(
    config: ResolvedConfig, batches_per_epoch: int, precision: Precision
) -> TrainSchedule:
    options = config.run
    steps_per_epoch = max(1, batches_per_epoch // options.accumulate)
    return TrainSchedule(
        steps=options.steps,
        warmup=min(round(options.warmup * steps_per_epoch), options.steps - 1),
        lr=options.lr,
        kind=options.schedule,
        milestones=options.milestones,
        factor=options.factor,
        accumulate=options.accumulate,
        clip=options.clip,
        seed=options.seed,
        precision=precision,
        overlap=options.all_reduce == "overlap",
    )
