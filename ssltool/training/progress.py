"""Progress of a training run on stderr: two live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from ssltool.plotting.units import describe
from ssltool.runs.duration import format_duration
from ssltool.runs.records import MetricRecord

_PLAIN_EVERY = 10.0  # seconds between plain lines
_PLAIN_WIDTH = 120  # columns of a plain line that goes to a file
_FEWEST_COLUMNS, _MOST_COLUMNS = 8, 40  # of the bar
_WAITING = 0.1  # share of the time spent waiting for images that is worth a remark
_MARKS, _BETWEEN_MARKS = 1000, 1.0  # of the clock, and seconds between them
_LONG, _SURE = 3600.0, 5.0  # seconds of a run that is announced, and of steps after which it is


class StepClock:
    """Time that steps take, from those of the last minutes; the first one counts until there is
    another.

    Args:
        step: Steps taken before.
    """

    def __init__(self, step: int) -> None:
        self._began = time.monotonic(), step
        self._marks = deque[tuple[float, int]](maxlen=_MARKS)

    def advance(self, step: int) -> None:
        """Take note of a step."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] >= _BETWEEN_MARKS:
            self._marks.append((now, step))

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began[0]

    def seconds(self, steps: int) -> float | None:
        """Time of some steps; None as long as it is unknown."""
        if not self._marks:
            return None
        began, first = self._marks[0] if len(self._marks) > 1 else self._began
        ended, last = self._marks[-1]
        return (ended - began) / (last - first) * steps if last > first else None


class ProgressLine:
    """Shows steps and time left, and the newest metrics next to their chance levels.

    On a terminal two lines are kept up to date. What has no room in them is left out, the least
    important first; step and time left stay.

    Args:
        total: Steps of the run.
        start: Steps taken before, after a resume.
        metrics: Those of the run, with units and chance levels.
        console: Where to draw.
        shorter: What to type for a shorter run, said once if this one will take more than an hour.
    """

    def __init__(
        self,
        total: int,
        start: int,
        metrics: Sequence[MetricRecord],
        console: Console,
        shorter: str = "",
    ) -> None:
        self._total, self._step, self._start = total, start, start
        self._metrics = metrics
        self._console = console
        self._shorter = shorter
        self._printed = time.monotonic()
        self._clock = StepClock(start)
        self._line: Mapping[str, float] = {}
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
            self._live = Live(self, console=console, refresh_per_second=4, redirect_stdout=False)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def advance(self, step: int) -> None:
        """Move on to a step."""
        self._step = step
        self._clock.advance(step)
        if self._shorter and self._clock.elapsed >= _SURE:
            seconds = self._clock.seconds(self._total - step) or 0.0
            if seconds > _LONG:
                self._console.print(
                    f"this run will take about {format_duration(seconds)}; for a shorter one, type "
                    f"{self._shorter}"
                )
            self._shorter = ""

    def show(self, line: Mapping[str, float]) -> None:
        """Show a line of metrics, as `ssltool.training.metrics.Meter` makes it."""
        self.advance(int(line["step"]))
        self._line = line
        if self._live:
            return
        now = time.monotonic()
        if now - self._printed >= _PLAIN_EVERY or self._step == self._total:
            self._printed = now
            width = self._console.width if self._console.is_terminal else _PLAIN_WIDTH
            lead = f"step {self._step:,}/{self._total:,}  {self._time_left()}"
            self._console.print(self._metrics_line(width - 1, lead))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The two lines, a little less wide than the terminal: what it echoes of Ctrl-C, ``^C``,
        must not wrap.
        """
        width = options.max_width - 3
        yield self._steps_line(width, ascii_only=options.ascii_only)
        yield Text(self._metrics_line(width), no_wrap=True, overflow="crop")

    def _steps_line(self, width: int, *, ascii_only: bool) -> Text:
        """``step 1,200/20,000  ━━━━────────  6%  20 min left  1.2 min elapsed``."""
        share = self._step / self._total
        step, left = f"step {self._step:,}/{self._total:,}", self._time_left()
        percent, elapsed = f"{int(100 * share)}%", f"{format_duration(self._clock.elapsed)} elapsed"
        words = [step, left, percent, *([elapsed] if self._step < self._total else [])]
        for reserved in (_FEWEST_COLUMNS + 2, 0):  # for the bar, unless step and time need all
            kept = list(compress(words, fitting(words, width - reserved)))
            if left in kept:
                break
        after = [word for word in (percent, left, elapsed) if word in kept]
        columns = min(_MOST_COLUMNS, width - cell_len("  ".join([step, *after])) - 2)
        parts = [Text(step), *map(Text, after)]
        if columns >= _FEWEST_COLUMNS:
            full, empty = "#." if ascii_only else "━─"
            done = int(columns * share)
            bar = Text(full * done, style="cyan") + Text(empty * (columns - done), style="dim")
            parts.insert(1, bar)
        return Text("  ", no_wrap=True, overflow="crop").join(parts)

    def _metrics_line(self, width: int, *lead: str) -> str:
        """As many metrics as fit, in fewer words where that shows more of them."""
        if not self._line:
            return "metrics follow"
        wordings = [[*lead, *self._parts(level)] for level in ("chance level", "chance")]
        parts = max(wordings, key=lambda parts: fitting(parts, width))
        return "  ".join(compress(parts, fitting(parts, width)))

    def _parts(self, level: str) -> list[str]:
        """The metrics and the speed in words, the most important first."""
        line = self._line
        metrics = [
            describe(metric.name, line[metric.name], metric.unit, metric.chance, level)
            for metric in _by_importance(self._metrics)
            if metric.name in line
        ]
        speed = [f"{line['images_per_s']:.0f} images/s"]
        if line["data_wait"] >= _WAITING:
            speed.append(f"waiting for images {line['data_wait']:.0%} of the time")
        return metrics[:3] + speed + metrics[3:]

    def _time_left(self) -> str:
        seconds = self._clock.seconds(self._total - self._step)
        if self._step == self._total:
            elapsed = format_duration(self._clock.elapsed)
            return f"{elapsed} since step {self._start:,}" if self._start else f"{elapsed} in all"
        return "time left: ..." if seconds is None else f"{format_duration(seconds)} left"


def fitting(parts: Sequence[str], width: int) -> tuple[bool, ...]:
    """Which of the parts have room in a line of some columns, two apart: the first one in any case,
    and of the others an earlier one before a later one.
    """
    chosen, used = [], 0
    for part in parts:
        wide = cell_len(part) + (2 if used else 0)
        chosen.append(not used or used + wide <= width)
        used += wide if chosen[-1] else 0
    return tuple(chosen)


def _by_importance(metrics: Sequence[MetricRecord]) -> Iterator[MetricRecord]:
    """The loss, kNN, then what has a chance level; the rest says little by itself."""
    first = [metric for metric in metrics if metric.name in ("loss", "knn")]
    yield from first
    yield from (m for m in metrics if m.chance is not None and m not in first)
