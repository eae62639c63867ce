"""Progress line of a training run on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_EVERY = 10.0  # seconds between plain lines


class ProgressLine:
    """Shows the newest line of metrics next to the chance level.

    Args:
        total: Steps of the run.
        start: Steps taken before, after a resume.
        chance: The method's chance levels.
        console: Where to draw.
    """

    def __init__(
        self, total: int, start: int, chance: Mapping[str, float], console: Console
    ) -> None:
        self._total = total
        self._first = start
        self._chance = chance
        self._console = console
        self._began = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
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
            self._console.print(
                f"step {step}/{self._total}  {text}  {left:.0f} s left", soft_wrap=True
            )

    def text(self, line: Mapping[str, float]) -> str:
        """``loss 2.31 (chance 3.18)  accuracy 33.0% (4.2%)  812 images/s  data 2%``."""
        shown = [
            f"loss {line['loss']:.3f}"
            + (f" (chance {self._chance['loss']:.3f})" if "loss" in self._chance else "")
        ]
        for name in ("accuracy", "tile_accuracy", "knn"):
            if name in line:
                known = f" (chance {_percent(self._chance[name])})" if name in self._chance else ""
                shown.append(f"{name.replace('_', ' ')} {_percent(line[name])}{known}")
        shown.append(f"{line['images_per_s']:.0f} images/s")
        shown.append(f"data {line['data_wait']:.0%}")
        return "  ".join(shown)


def _percent(share: float) -> str:
    """A share in percent; a small one, such as the chance of picking one of thousands, keeps two
    digits.
    """
    return f"{share:.1%}" if share >= 0.01 or share <= 0 else f"{100 * share:.2g}%"
