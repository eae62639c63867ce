"""Progress line of a training run on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssltool.methods.base import Metric
from ssltool.plotting.units import TRAINING_UNITS, describe

_SHOWN = {"loss", "accuracy", "tile_accuracy"}
_PLAIN_EVERY = 10.0  # seconds between plain lines


class ProgressLine:
    """Shows the newest line of metrics next to the chance level.

    Args:
        total: Steps of the run.
        start: Steps taken before, after a resume.
        metrics: The method's, with units and chance levels.
        console: Where to draw.
    """

    def __init__(self, total: int, start: int, metrics: Sequence[Metric], console: Console) -> None:
        self._total = total
        self._first = start
        self._metrics = metrics
        self._console = console
        self._began = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, completed=start)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def show(self, line: Mapping[str, float]) -> None:
        """Show a line of metrics, as `ssltool.training.metrics.Meter` makes it."""
        step = int(line["step"])
        text = self.text(line)
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
            return
        now = time.monotonic()
        if now - self._printed >= _PLAIN_EVERY or step == self._total:
            self._printed = now
            left = (now - self._began) / max(1, step - self._first) * (self._total - step)
            self._console.print(f"step {step}/{self._total}  {text}  {left:.0f} s left")

    def text(self, line: Mapping[str, float]) -> str:
        """``loss 2.31 (chance level 3.18)  accuracy 33.0% (chance level 4.2%)  812 images/s``."""
        shown = [
            describe(metric.name, line[metric.name], metric.unit, metric.chance)
            for metric in self._metrics
            if metric.name in _SHOWN and metric.name in line
        ]
        if "knn" in line:
            shown.append(describe("knn", line["knn"], TRAINING_UNITS["knn"]))
        shown += [f"{line['images_per_s']:.0f} images/s", f"data {line['data_wait']:.0%}"]
        return "  ".join(shown)
