"""What a whole run would need, from two of its steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ssltool.distributed.collectives import world_size
from ssltool.runs.duration import format_duration
from ssltool.training.disk import disk_need, format_bytes
from ssltool.training.trainer import Trainer, peak_memory


class DryRun(BaseModel):
    """What was decided for a run, and what it would need.

    Attributes:
        method: Name of the method.
        options: Every resolved option.
        precision: Compute precision, and why it was chosen.
        images: Number of images.
        batch_size: Images of a step, of all processes together.
        epochs: Passes over the images.
        budget_s: Wall time that was asked for, in seconds; None if no time was.
        images_per_s: Of all processes together.
        seconds: Estimated wall time of the run.
        memory_gb: Peak memory of this process or its GPU.
        disk_gb: Size of the run folder at most.
    """

    method: str
    options: dict[str, object]
    precision: str
    images: int
    batch_size: int
    epochs: float
    budget_s: float | None
    images_per_s: float
    seconds: float
    memory_gb: float
    disk_gb: float

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of what was decided and of what is needed, for people."""
        options = self.options
        size = f"{options['image_size']} px"
        if options["load_size"] not in (None, options["image_size"]):
            size += f", cropped from {options['load_size']} px"
        optimizer = f"{options['optimizer']}, peak learning rate {options['lr']:.3g}"
        return [
            ("backbone", f"{options['backbone']}, {options['stem']} stem"),
            ("images", f"{self.images:,} at {size}"),
            ("batch", f"{self.batch_size} images"),
            ("steps", f"{options['steps']:,} ({_count(self.epochs)} epochs)"),
            ("optimizer", f"{optimizer}, weight decay {options['weight_decay']:.3g}"),
            ("schedule", f"{options['schedule']}, warm-up of {_count(options['warmup'])} epochs"),
            ("precision", self.precision),
            *([("processes", _processes(options))] if options["devices"] != 1 else []),
            *([("budget", format_duration(self.budget_s))] if self.budget_s else []),
            ("speed", f"{self.images_per_s:,.0f} images/s"),
            ("time", format_duration(self.seconds)),
            ("memory", format_bytes(self.memory_gb * 1e9)),
            ("disk", format_bytes(self.disk_gb * 1e9)),
        ]


def _processes(options: Mapping[str, object]) -> str:
    when = "during" if options["all_reduce"] == "overlap" else "after"
    return f"{options['devices']}, gradients averaged {when} the backward pass"


def _count(value: Any) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rehearse(trainer: Trainer) -> DryRun:
    """Take two steps and time the second."""
    steps, times = trainer.steps(), []
    for _ in range(min(2, trainer.schedule.steps)):
        began = time.perf_counter()
        report = next(steps)
        float(report.loss)  # waits for the device
        times.append(time.perf_counter() - began)
    config, count, precision = trainer.config, trainer.schedule.steps, trainer.schedule.precision
    batch = config.run.batch_size * world_size() * config.run.accumulate
    return DryRun(
        method=config.method,
        options=config.options(),
        precision=f"{precision.name}: {precision.reason}",
        images=config.data.count,
        batch_size=batch,
        epochs=count / max(1, config.data.count // batch),
        budget_s=trainer.budget.seconds if trainer.budget else None,
        images_per_s=report.images * world_size() / times[-1],
        seconds=times[-1] * count,
        memory_gb=round(peak_memory(trainer.device) / 1e9, 2),
        disk_gb=round(disk_need(trainer) / 1e9, 3),
    )
