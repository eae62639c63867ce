"""Budgets: backbone, image size, batch size and steps that fit into a wall time on this machine.

A few steps of the cheapest candidate are timed. While the time left holds enough images for the
next larger one, that one is timed as well. The number of steps is decided last, when the trainer is
built and all preparation is over. What was chosen is stored as ordinary options, so that a run is
repeated or resumed without measuring anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich.console import Console

from ssltool.cores import available_cores
from ssltool.data.sources.base import Source
from ssltool.device import choose_device
from ssltool.distributed.collectives import from_main, world_size
from ssltool.errors import UnreadableImage, UsageError
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_options
from ssltool.runs.config import LENGTHS, RunConfig
from ssltool.runs.duration import format_duration, parse_duration
from ssltool.runs.records import BudgetRecord
from ssltool.runs.resolve import resolve
from ssltool.training.start import Start
from ssltool.training.trainer import CACHE_BYTES, Trainer

DEFAULT = "15m"  # on a CPU, if nothing says how long to train
_MOST_PASSES = 200  # of a default run over few images
_MORE_PASSES = f"{_MOST_PASSES} passes over the images, for more type --budget"
_BATCHES = (256, 128, 64, 32)
_FEWEST_STEPS = 2000  # for which a larger batch is given up
_TIMED_SECONDS = 4.0  # of steps, after one that is not counted
_TIMED_SHARE = 0.03  # of the budget that may be spent on timing candidates
_TIMED_READS = 32
_SMALL = "small"  # preset of the cheapest candidate
_SAVE = 1.5  # seconds of a checkpoint with its figures, on a slow core
_BETWEEN_SAVES = 60.0  # seconds, if the budget is long enough


class Candidate(NamedTuple):
    """A size of network and images.

    Attributes:
        image_size: Side in pixels, at most.
        backbone: Its name; None for that of the method's preset ``small``, which is applied.
        images: How many images a run must be able to see for this one to be worth its cost.
    """

    image_size: int
    backbone: str | None
    images: float


CANDIDATES = (
    Candidate(64, None, 0),
    Candidate(64, "resnet18", 2e6),
    Candidate(96, "resnet18", 4e6),
    Candidate(128, "resnet18", 8e6),
    Candidate(224, "resnet18", 2.5e7),
    Candidate(224, "resnet50", 6e7),
)
"""From the cheapest to the most expensive."""


@dataclass(frozen=True)
class Pace:
    """How fast a run takes its steps.

    Attributes:
        first: Seconds of a step in the first pass over the images, in which files are read.
        later: Seconds of a step in later passes.
        per_pass: Steps of a pass.
        batch: Images of a step.
    """

    first: float
    later: float
    per_pass: int
    batch: int

    def steps(self, seconds: float) -> int:
        """Steps that fit into a time, at least 1."""
        in_first = min(self.per_pass, seconds / self.first)
        rest = max(0.0, seconds - in_first * self.first)
        return max(1, int(in_first + rest / self.later))

    def images(self, seconds: float) -> int:
        """Images seen in a time."""
        return self.steps(seconds) * self.batch

    def seconds(self, images: float) -> float:
        """Time in which a number of images is seen."""
        steps = images / self.batch
        return min(steps, self.per_pass) * self.first + max(0, steps - self.per_pass) * self.later


@dataclass(frozen=True)
class Plan:
    """A configuration that fits a budget, and how long its run may become.

    Attributes:
        config: What was asked for, with backbone, image size and batch size decided.
        data: Statistics of the images at this size.
        seconds: The budget.
        deadline: `time.monotonic` at which the run should end.
        pace: Of its steps.
        most: Steps at most.
        larger: What a larger budget would buy.
    """

    config: RunConfig
    data: DataInfo
    seconds: float
    deadline: float
    pace: Pace
    most: float
    larger: str

    def fill(self, trainer: Trainer, console: Console) -> Trainer:
        """The trainer with as many steps as fit into the time left; prints what was chosen."""
        left = from_main(lambda: self.deadline - time.monotonic())
        saves = _saves(self.seconds)
        steps = self.pace.steps(max(0.0, left - _SAVE * saves))
        capped = steps > self.most
        steps = int(min(steps, self.most))
        every = self.config.run.checkpoint_every or max(1, -(-steps // saves))
        config = self.config.with_run(steps=steps, budget=None, checkpoint_every=every)
        record = BudgetRecord(
            seconds=self.seconds,
            images_per_s=round(self.pace.batch / self.pace.later, 1),
            first_pass_images_per_s=round(self.pace.batch / self.pace.first, 1),
            larger=_MORE_PASSES if capped else self.larger,
        )
        options = config.run
        images = steps * self.pace.batch
        spent = "" if left > 0 else ", spent before the first step"
        console.print(
            f"budget of {format_duration(self.seconds)}{spent} at {record.images_per_s:.0f} "
            f"images/s: {options.backbone} at {options.image_size} px sees {images:,} images in "
            f"{steps:,} step{'s' if steps > 1 else ''}; {record.larger}"
        )
        return trainer.with_length(resolve(config, self.data), record)


def asked_seconds(config: RunConfig) -> float | None:
    """The budget of a new run: as typed, or the default of a CPU; None if its length is given."""
    if config.run.budget is not None:
        return parse_duration(config.run.budget)
    if any(getattr(config.run, name) is not None for name in LENGTHS):
        return None
    on_cpu = choose_device(config.run.device).type == "cpu"
    return parse_duration(DEFAULT) if on_cpu else None


def plan(
    config: RunConfig,
    source: Source,
    data: DataInfo,
    began: float,
    console: Console,
) -> Plan | None:
    """Choose what fits into the budget of a new run, which takes seconds to time.

    Args:
        config: What was asked for. Backbone, image size and batch size stay if they were given.
        source: The images.
        data: Statistics of the images, at the size they would be read at without a budget.
        began: `time.monotonic` at which the run began.
        console: Where the choice is printed.

    Returns:
        The plan; None if the run has no budget.

    Raises:
        UsageError: No candidate suits the method and its options.
    """
    seconds = asked_seconds(config)
    if seconds is None:
        return None
    deadline = began + seconds
    chosen: tuple[RunConfig, DataInfo, Pace] | None = None
    larger, refused = "more time would mean more steps", None
    timing = time.monotonic()
    with console.status("timing a few steps"):
        read = seconds_per_image(source, data.image_size)
        for candidate in _candidates(config, data.image_size):
            sized, own = _sized(config, data, candidate)
            try:
                pace = time_steps(sized, own, source, console, read=read)
            except UsageError as error:  # too small for the method, say
                refused = error
                continue
            left = from_main(lambda: deadline - time.monotonic())
            if chosen and pace.images(left) < candidate.images:
                needed = format_duration(pace.seconds(candidate.images))
                name = resolve(sized, own).run.backbone
                larger = f"{needed} would be enough for {name} at {candidate.image_size} px"
                break
            chosen = sized, own, pace
            if from_main(lambda: time.monotonic() - timing > _TIMED_SHARE * seconds):
                break
    if chosen is None:
        assert refused is not None
        raise refused
    sized, own, pace = chosen
    sized = _with_batch(sized, own, pace, from_main(lambda: deadline - time.monotonic()))
    batch = resolve(sized, own).run.batch_size * world_size() * sized.run.accumulate
    scale = batch / pace.batch
    pace = Pace(pace.first * scale, pace.later * scale, max(1, data.count // batch), batch)
    most = pace.per_pass * _MOST_PASSES if config.run.budget is None else float("inf")
    return Plan(sized, own, seconds, deadline, pace, most, larger)


def cheapest(config: RunConfig, data: DataInfo) -> tuple[RunConfig, DataInfo]:
    """The configuration and data of the cheapest candidate."""
    return _sized(config, data, next(_candidates(config, data.image_size)))


def _candidates(config: RunConfig, native: int) -> Iterator[Candidate]:
    """The candidates that keep what was given and do not enlarge the images."""
    seen = set[tuple[int, str | None]]()
    for candidate in CANDIDATES:
        size = config.run.image_size or min(candidate.image_size, native)
        name = config.run.backbone or candidate.backbone
        if (size, name) not in seen:
            seen.add((size, name))
            yield Candidate(size, name, candidate.images)


def _sized(config: RunConfig, data: DataInfo, candidate: Candidate) -> tuple[RunConfig, DataInfo]:
    """A configuration of a candidate's size, for any number of steps."""
    if candidate.backbone is not None:
        config = config.with_run(backbone=candidate.backbone)
    elif _SMALL in find_options(config.method).presets:
        config = config.with_preset(_SMALL)
    sized = config.with_run(image_size=candidate.image_size, steps=10**9, budget=None)
    return sized, replace(data, image_size=candidate.image_size)


def _with_batch(config: RunConfig, data: DataInfo, pace: Pace, left: float) -> RunConfig:
    """The largest usual batch with which enough steps are taken, unless one was given."""
    if config.run.batch_size is not None:
        return config
    images = pace.images(left) / world_size() / config.run.accumulate
    most = data.count // world_size()
    fitting = [b for b in _BATCHES if b <= most and images / b >= _FEWEST_STEPS]
    smallest = min(_BATCHES[-1], 2 ** max(1, most.bit_length() - 1))
    return config.with_run(batch_size=max(fitting, default=smallest))


def _saves(seconds: float) -> int:
    return max(1, min(20, int(seconds / _BETWEEN_SAVES)))


def time_steps(
    config: RunConfig,
    data: DataInfo,
    source: Source,
    console: Console,
    *,
    read: float,
    clock: Callable[[], float] = time.perf_counter,
    seconds: float = _TIMED_SECONDS,
) -> Pace:
    """Time a few steps of a run that is thrown away.

    Args:
        config: Of the run.
        data: Statistics of the images.
        source: The images.
        console: Where remarks go.
        read: Seconds of one core in which an image is read.
        clock: Seconds that pass; `time.process_time` measures work on a busy machine.
        seconds: How long steps are taken, after one that is not counted.
    """
    start = Start(resolve(config, data), source, fingerprint="")
    trainer = Trainer.build(start, console, prepare=False)
    options = trainer.config.run
    times: list[float] = []
    with trainer.batches:
        steps = trainer.steps()
        float(next(steps).loss)  # memory is taken and kernels are chosen
        while not times or from_main(lambda: sum(times) < seconds):
            began = clock()
            report = next(steps)
            float(report.loss)  # waits for the device
            times.append(max(1e-6, clock() - began - report.wait))
    later = from_main(lambda: sorted(times)[len(times) // 2])
    batch = options.batch_size * world_size() * options.accumulate
    reading = batch * read / available_cores()
    # On a CPU the decoders and the steps share the cores.
    first = later + reading if trainer.device.type == "cpu" else max(later, reading)
    side = options.load_size or options.image_size
    cached = data.count * side * side * data.channels <= CACHE_BYTES
    return Pace(first, later if cached else first, max(1, data.count // batch), batch)


def seconds_per_image(source: Source, size: int) -> float:
    """CPU time of reading an image, on average over a sample."""
    chosen = random.Random(0).sample(range(len(source)), min(_TIMED_READS, len(source)))
    began = time.process_time()
    for index in chosen:
        try:
            source.read(index, size)
        except UnreadableImage:
            continue
    spent = (time.process_time() - began) / len(chosen)
    return from_main(lambda: spent)
