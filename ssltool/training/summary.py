"""The end of a run, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

from pydantic import BaseModel, Field

from ssltool.data.specs import OBJECT
from ssltool.plotting.units import format_value, metric_title
from ssltool.runs.config import ResolvedConfig
from ssltool.runs.duration import format_duration
from ssltool.runs.folder import VALIDATION, BestWeights
from ssltool.runs.records import MetricRecord

_SHORTER = "20m"


class RunSummary(BaseModel):
    """The end of a run.

    Attributes:
        run: The run folder.
        weights: The encoder's file.
        best: The encoder with the best online kNN accuracy, with ``--probe-data``.
        method: Name of the method.
        metrics: The last line of metrics.
        chance: Chance level by metric.
        images: Number of images.
        skipped: How many of them could not be read.
        seconds: Wall time of the training loop, since it was resumed.
        resumed_after: Steps taken before it was resumed; 0 if it was not.
        steps: Of the whole run.
        images_seen: In the whole run, each as often as it was seen.
        images_per_s: Of all processes together, since the run was resumed.
        declared: The metrics with their units; not in the JSON document.
        labeled: Labeled images at hand, as typed after ``--data``; not in the JSON document.
    """

    run: Path
    weights: Path
    best: BestWeights | None = None
    method: str
    metrics: dict[str, float]
    chance: dict[str, float]
    images: int
    skipped: int
    seconds: float
    resumed_after: int = 0
    steps: int
    images_seen: int
    images_per_s: float
    declared: tuple[MetricRecord, ...] = Field((), exclude=True)
    labeled: tuple[str, ...] = Field((), exclude=True)

    def learned(self) -> list[str]:
        """What was trained, and the last metrics next to their chance levels, a line each."""
        rows = [
            (metric_title(m.name), format_value(self.metrics[m.name], m.unit), _level(m))
            for m in self.declared
            if m.name in self.metrics and (m.chance is not None or m.name == "loss")
        ]
        wide = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
        return [
            f"{self.method}: {self.steps:,} steps, {self.images_seen:,} images seen{self._pace()}",
            *(f"  {a:{wide[0]}}  {b:>{wide[1]}}  {c}".rstrip() for a, b, c in rows),
            *([f"  best, {self.best}", f"  ({VALIDATION})"] if self.best else []),
        ]

    def _pace(self) -> str:
        """How long the steps took that were taken since the run was resumed, if any were."""
        if self.resumed_after == self.steps:
            return ""
        since = f" since step {self.resumed_after:,}" if self.resumed_after else ""
        return f"; {format_duration(self.seconds)} at {self.images_per_s:.0f} images/s{since}"

    def following(self) -> list[str]:
        """The commands to type next, each on a line of its own."""
        run = shlex.quote(str(self.run))
        data = " ".join(f"--data {shlex.quote(path)}" for path in self.labeled)
        lines = [
            "next, measure what was learned and draw predictions:",
            f"  ssltool probe --weights {run} {data or '--data LABELED'}",
            f"  ssltool visualize predictions --weights {run}",
        ]
        if self.best:
            best = shlex.quote(str(self.best.weights))
            target = shlex.quote(str(self.run / "exported"))
            lines.append(f"  ssltool export --weights {best} --to {target}  # the best encoder")
        return lines if data else [*lines, "  (LABELED: images in one folder per class)"]


def shorter_run(config: ResolvedConfig) -> str:
    """What to type for a run on the same images that takes minutes."""
    if any(path.startswith(OBJECT) for path in config.run.data):
        return f"ssltool.pretrain(..., budget='{_SHORTER}')"
    data = "".join(f" --data {shlex.quote(path)}" for path in config.run.data)
    return f"ssltool pretrain {config.method}{data} --budget {_SHORTER}"


def _level(metric: MetricRecord) -> str:
    chance = metric.chance
    return "" if chance is None else f"chance level {format_value(chance, metric.unit)}"
