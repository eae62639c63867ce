"""What a run shows on the terminal: the bytes that are written, shown by a terminal emulator."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pyte
import pytest

from ssltool.console import PlainConsole
from ssltool.runs.records import MetricRecord
from ssltool.training import progress
from ssltool.training.progress import ProgressLine

WIDTHS = [60, 80, 100, 120, 160]
TOTAL = 350_000
METRICS = (
    MetricRecord(name="loss", unit="", chance=6.908),
    MetricRecord(name="accuracy", unit="fraction", chance=0.001),
    MetricRecord(name="top5", unit="fraction", chance=0.005),
    MetricRecord(name="tile_accuracy", unit="fraction", chance=0.111),
    MetricRecord(name="assignment_tile_accuracy", unit="fraction", chance=0.111),
    MetricRecord(name="knn", unit="fraction", chance=0.038),
)


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal:
    """A console and the screen of the terminal that it writes to."""

    def __init__(self, width: int, **environment: str) -> None:
        self.file = io.StringIO()
        self.screen = pyte.Screen(width, 24)
        self.stream = pyte.Stream(self.screen)
        self.console = PlainConsole(
            file=self.file,
            force_terminal=True,
            width=width,
            height=24,
            soft_wrap=True,
            legacy_windows=False,
            _environ={"TERM": "xterm-256color", **environment},
        )

    def lines(self) -> list[str]:
        """What is on the screen, after all that was written so far."""
        self.stream.feed(self.file.getvalue().replace("\n", "\r\n"))
        self.file.seek(0)
        self.file.truncate()
        lines = [line.rstrip() for line in self.screen.display]
        return lines[: max((i + 1 for i, line in enumerate(lines) if line), default=0)]


def line_of(step: int, **changes: float) -> dict[str, float]:
    values = {
        "loss": 6.908 - step / TOTAL,
        "accuracy": step / TOTAL,
        "top5": step / TOTAL,
        "tile_accuracy": 0.2,
        "knn": 0.412,
        "images_per_s": 812.4,
        "data_wait": 0.02,
    }
    return {"step": step, **values, **changes}


def training(
    line: ProgressLine, clock: Clock, steps: range, **changes: float
) -> Iterator[dict[str, float]]:
    """Take steps of 1.04 s, each with a line of metrics, drawn at once."""
    for step in steps:
        clock.now += 1.04
        line.advance(step)
        line.show(line_of(step, **changes))
        if line._live:
            line._live.refresh()
        yield line_of(step)


def check(lines: list[str], width: int, step: int) -> None:
    """Two lines: the step, bar and time left; a metric next to its chance level."""
    first, second = lines
    assert re.match(rf"step {step:,}/350,000  [━─]{{8,40}}  \d+%  4\.2 days left", first)
    assert second.startswith("loss 6.9")
    assert re.match(r"loss [\d.]+ \(chance( level)? 6\.908\)", second)
    assert max(map(len, lines)) <= width - 3
    # Nothing is cut off: each part of the second line has both of its parentheses.
    assert second.count("(") == second.count(")")


@pytest.mark.parametrize("width", WIDTHS)
def test_two_lines_stay_readable_over_many_steps(width: int, clock: Clock) -> None:
    terminal = Terminal(width)
    with ProgressLine(TOTAL, 0, METRICS, terminal.console) as line:
        for number, _ in enumerate(training(line, clock, range(1, 60))):
            if number % 20 == 5:
                check(terminal.lines(), width, number + 1)
        check(terminal.lines(), width, 59)
        more = {60: 1, 80: 2, 100: 3, 120: 3, 160: 4}[width]
        assert terminal.lines()[1].count("chance") >= more
        assert ("elapsed" in terminal.lines()[0]) == (width >= 80)
    check(terminal.lines(), width, 59)  # stays when the run ends


@pytest.mark.parametrize("width", WIDTHS)
def test_before_the_first_metrics_and_at_the_end(width: int, clock: Clock) -> None:
    terminal = Terminal(width)
    with ProgressLine(20, 0, METRICS, terminal.console) as line:
        first, second = terminal.lines()
        assert re.match(r"step 0/20  ─+  0%  time left: \.\.\.", first)
        assert second == "metrics follow"
        list(training(line, clock, range(1, 21)))
    first, second = terminal.lines()
    assert re.match(r"step 20/20  ━+  100%  21 s in all$", first)
    assert second.startswith("loss 6.9")


@pytest.mark.parametrize("width", [*WIDTHS, *range(70, 79)])
def test_an_interrupt_leaves_no_debris(width: int, clock: Clock) -> None:
    terminal = Terminal(width)
    with ProgressLine(TOTAL, 0, METRICS, terminal.console) as line:
        list(training(line, clock, range(1, 9)))
        terminal.file.write("^C")  # the terminal's echo
        list(training(line, clock, range(9, 10)))
    terminal.console.print("error: stopped after step 9")
    *lines, error = terminal.lines()
    check(lines, width, 9)
    assert error == "error: stopped after step 9"


def test_step_and_time_left_stay_on_the_narrowest(clock: Clock) -> None:
    terminal = Terminal(40)
    with ProgressLine(TOTAL, 0, METRICS, terminal.console) as line:
        list(training(line, clock, range(1, 30)))
    first, second = terminal.lines()
    assert first == "step 29/350,000  0%  4.2 days left"
    assert second == "loss 6.908 (chance level 6.908)"


def test_remarks_go_above_and_leave_no_debris(clock: Clock) -> None:
    terminal = Terminal(60)
    with ProgressLine(TOTAL, 0, METRICS, terminal.console) as line:
        list(training(line, clock, range(1, 30)))
        terminal.console.print("warning: " + "x" * 70)  # wraps
        list(training(line, clock, range(30, 60)))
    lines = terminal.lines()
    assert lines[:2] == ["warning: " + "x" * 51, "x" * 19]
    check(lines[2:], 60, 59)


@pytest.mark.parametrize(("before", "after"), [(120, 60), (60, 160)])
def test_a_resized_terminal(before: int, after: int, clock: Clock) -> None:
    terminal = Terminal(before)
    with ProgressLine(TOTAL, 0, METRICS, terminal.console) as line:
        list(training(line, clock, range(1, 30)))
        terminal.lines()
        terminal.screen.resize(columns=after)
        terminal.console.width = after
        list(training(line, clock, range(30, 60)))
    check(terminal.lines(), after, 59)


def test_slow_reading_is_said_in_words(clock: Clock) -> None:
    terminal = Terminal(160)
    with ProgressLine(TOTAL, 0, METRICS[:2], terminal.console) as line:
        list(training(line, clock, range(1, 9), data_wait=0.43))
    assert terminal.lines()[1].endswith("812 images/s  waiting for images 43% of the time")


def test_without_colors_the_bar_is_still_one(clock: Clock) -> None:
    terminal = Terminal(80, NO_COLOR="1")
    with ProgressLine(100, 0, METRICS, terminal.console) as line:
        list(training(line, clock, range(1, 51)))
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.file.getvalue())
    assert re.search(r"  (━+)(─+)  50%", terminal.lines()[0])


@pytest.mark.parametrize(("dumb", "width"), [(True, 60), (True, 80), (False, 80)])
def test_plain_lines_elsewhere(dumb: bool, width: int, clock: Clock) -> None:
    """On a dumb terminal and in a file: a line each ten seconds, and the last."""
    terminal = Terminal(width, TERM="dumb")
    if not dumb:
        terminal.console = PlainConsole(file=terminal.file, soft_wrap=True, _environ={})
    with ProgressLine(50, 0, METRICS, terminal.console) as line:
        list(training(line, clock, range(1, 51)))
    written = terminal.file.getvalue()
    assert "\x1b" not in written
    lines = written.splitlines()
    assert len(lines) == 5
    assert re.match(r"step 10/50  42 s left  loss 6.908 \(chance( level)? 6.908\)", lines[0])
    assert lines[-1].startswith("step 50/50  52 s in all  loss ")
    assert max(map(len, lines)) < (width if dumb else 120)
    assert all("(chance" in text for text in lines)


def test_after_a_resume_the_time_is_not_that_of_the_whole_run(clock: Clock) -> None:
    terminal = Terminal(80, TERM="dumb")
    with ProgressLine(50, 40, METRICS, terminal.console) as line:
        list(training(line, clock, range(41, 51)))
    assert re.match(r"step 50/50  1\d s since step 40  loss", terminal.file.getvalue())


@pytest.mark.parametrize("quiet", [False, True])
def test_a_long_run_says_so_once(quiet: bool, clock: Clock) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, quiet=quiet, soft_wrap=True, _environ={})
    with ProgressLine(TOTAL, 0, METRICS, console, "ssltool pretrain x --budget 20m") as line:
        for step in range(1, 9):
            clock.now += 1.04
            line.advance(step)
    said = (
        "this run will take about 4.2 days; for a shorter one, type ssltool pretrain x "
        "--budget 20m\n"
    )
    assert file.getvalue() == ("" if quiet else said)


@pytest.mark.parametrize(("total", "shorter"), [(3000, "ssltool"), (TOTAL, "")])
def test_other_runs_do_not(total: int, shorter: str, clock: Clock) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, soft_wrap=True, _environ={})
    with ProgressLine(total, 0, METRICS, console, shorter) as line:
        for step in range(1, 9):
            clock.now += 1.04
            line.advance(step)
    assert file.getvalue() == ""


def test_the_time_left_forgets_a_slow_first_step(clock: Clock) -> None:
    clocked: Any = progress.StepClock(0)
    assert clocked.seconds(10) is None
    clock.now += 60
    clocked.advance(1)
    assert clocked.seconds(10) == pytest.approx(600)
    for step in range(2, 12):
        clock.now += 2
        clocked.advance(step)
    assert clocked.seconds(10) == pytest.approx(20)
