"""Budgets: what fits into a wall time."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ssltool.console import PlainConsole
from ssltool.data.sources.demo import DemoSource
from ssltool.errors import UsageError
from ssltool.methods.options import DataInfo
from ssltool.runs.config import ResolvedConfig, RunConfig
from ssltool.runs.records import BudgetRecord, RunRecord
from ssltool.training import budget
from ssltool.training.budget import Pace
from ssltool.training.pretrain import dry_run, pretrain

QUIET = Console(quiet=True)
DATA = DataInfo(count=1000, image_size=224)

seconds = st.floats(0.001, 10)


def slow_steps(pace: Pace, budget: float) -> int:
    """Steps counted one after the other."""
    taken, spent = 0, 0.0
    while spent <= budget and taken < 10_000:
        spent += pace.first if taken < pace.per_pass else pace.later
        taken += 1
    return max(1, taken - 1)


@given(seconds, seconds, st.integers(1, 50), st.floats(0.1, 20))
def test_steps_fill_the_time(first: float, later: float, per_pass: int, time: float) -> None:
    pace = Pace(max(first, later), min(first, later), per_pass, 8)
    if time / pace.later < 9000:
        assert abs(pace.steps(time) - slow_steps(pace, time)) <= 1
    steps = pace.steps(time)
    if steps > 1:
        assert pace.seconds(steps * 8) <= time * (1 + 1e-9)
        assert pace.seconds((steps + 2) * 8) > time


def made(monkeypatch: pytest.MonkeyPatch, speeds: dict[str, float]) -> list[tuple[int, str]]:
    """Replace the timing by made speeds, images/s by backbone; what was timed."""
    timed: list[tuple[int, str]] = []

    def time_steps(config: RunConfig, data: DataInfo, *_: object, read: float) -> Pace:
        name = config.run.backbone or ""
        timed.append((data.image_size, name))
        if speeds[name] <= 0:
            raise UsageError("too small")
        step = 64 / (speeds[name] * (64 / data.image_size) ** 2)
        return Pace(step, step, data.count // 64, 64)

    monkeypatch.setattr(budget, "time_steps", time_steps)
    return timed


def planned(given: dict[str, object]) -> budget.Plan:
    config = RunConfig.merged("jigsaw", given)
    plan = budget.plan(config, DemoSource(40), DATA, time.monotonic(), QUIET)
    assert plan is not None
    return plan


def test_a_small_budget_takes_the_cheapest_candidate_and_says_what_more_would_buy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = {"resnet10_w32": 100.0, "resnet18": 50.0, "resnet50": 10.0}
    timed = made(monkeypatch, speeds)
    plan = planned({"budget": "20m"})
    assert (plan.config.run.backbone, plan.data.image_size) == ("resnet10_w32", 64)
    assert timed == [(64, "resnet10_w32"), (64, "resnet18")]
    assert plan.larger == "11 h would be enough for resnet18 at 64 px"  # 2e6 images at 50/s


def test_a_large_budget_takes_the_largest_candidate_for_which_it_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made(monkeypatch, {"resnet10_w32": 2e4, "resnet18": 1e4, "resnet50": 2e3})
    plan = planned({"budget": "2h"})  # 1e4 * 7200 / 4 = 1.8e7 images at 128 px
    assert (plan.config.run.backbone, plan.data.image_size) == ("resnet18", 128)
    assert plan.config.run.batch_size == 256


def test_what_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = made(monkeypatch, {"vgg11": 1e5})
    given = {"budget": "1h", "backbone": "vgg11", "image_size": 96, "batch_size": 20, "lr": 0.5}
    run = planned(given).config.run
    assert (run.backbone, run.image_size, run.batch_size, run.lr) == ("vgg11", 96, 20, 0.5)
    assert timed == [(96, "vgg11")]


def test_candidates_that_do_not_suit_the_method_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made(monkeypatch, {"resnet10_w32": 0, "resnet18": 10, "resnet50": 1})
    assert planned({"budget": "1m"}).config.run.backbone == "resnet18"
    made(monkeypatch, {"resnet10_w32": 0, "resnet18": 0, "resnet50": 0})
    with pytest.raises(UsageError, match="too small"):
        planned({"budget": "1m"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 900.0),
        ({"budget": "2h"}, 7200.0),
        ({"steps": 5}, None),
        ({"epochs": 5}, None),
    ],
)
def test_a_cpu_has_a_default(given: dict[str, object], expected: float | None) -> None:
    config = RunConfig.merged("jigsaw", {**given, "device": "cpu"})
    assert budget.asked_seconds(config) == expected


def test_a_default_run_over_few_images_ends_after_a_number_of_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made(monkeypatch, {"resnet10_w32": 1e5, "resnet18": 1e-3})
    batch = planned({"device": "cpu"}).pace.batch
    assert planned({"device": "cpu"}).most == 200 * (1000 // batch)
    assert planned({"device": "cpu", "budget": "15m"}).most == float("inf")


class Unbuilt:
    """In place of a trainer: what it is given."""

    def with_length(self, config: ResolvedConfig, record: BudgetRecord) -> Any:
        return config, record


@pytest.mark.parametrize(
    ("given", "late", "expected"),
    [
        ({"device": "cpu"}, 0.0, "in 3,000 steps; 200 passes over the images, for more type"),
        ({"budget": "15m"}, 0.0, "steps; 10 h would be enough"),
        ({"budget": "15m"}, 900.0, "budget of 15 min, spent before the first step at"),
        ({"budget": "15m"}, 900.0, "sees 64 images in 1 step; "),
    ],
)
def test_what_is_printed_of_a_budget_is_what_the_run_does(
    given: dict[str, object], late: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, {"resnet10_w32": 100.0, "resnet18": 55.0})
    monkeypatch.setattr(budget, "_MOST_PASSES", 1 if "budget" in given else 200)
    plan = planned({**given, "batch_size": 64})
    if "budget" not in given:
        plan = replace(plan, pace=Pace(0.01, 0.01, 15, 64))
    plan = replace(plan, deadline=plan.deadline - late)
    terminal = PlainConsole(file=io.StringIO(), width=400)
    config, record = plan.fill(Unbuilt(), terminal)  # type: ignore[arg-type, misc]
    line = terminal.file.getvalue()
    assert expected in line
    assert f"in {config.run.steps:,} step" in line
    assert f"sees {config.run.steps * 64:,} images" in line
    assert line.strip().endswith(record.larger)


def _lengths(record: RunRecord) -> Sequence[object]:
    names = ("backbone", "image_size", "batch_size", "steps", "warmup", "budget")
    return [record.options[name] for name in names]


@pytest.mark.slow
def test_a_run_of_a_budget_is_recorded_and_repeated_without_it(tmp_path: Path) -> None:
    given = {"data": ("demo:200",), "budget": "12s", "image_size": 32, "workers": 0}
    began = time.monotonic()
    pretrain(RunConfig.merged("jigsaw", {**given, "out": tmp_path / "a"}), console=QUIET)
    assert time.monotonic() - began < 40  # twelve, on a quiet machine
    record = RunRecord.read(tmp_path / "a" / "run.json")
    assert record.budget is not None
    assert record.budget.seconds == 12
    again = RunConfig.merged("jigsaw", {"out": tmp_path / "b"}, None, tmp_path / "a" / "run.json")
    pretrain(again, console=QUIET)
    assert _lengths(RunRecord.read(tmp_path / "b" / "run.json")) == _lengths(record)
    weights = [tmp_path / name / "encoder.safetensors" for name in "ab"]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    resumed = pretrain(
        RunConfig.merged("jigsaw", {"out": tmp_path / "a"}), resume=True, console=QUIET
    )
    assert RunRecord.read(tmp_path / "a" / "run.json").budget == record.budget
    assert resumed.resumed_after == resumed.steps
    with pytest.raises(UsageError, match="--budget: no effect with --resume"):
        pretrain(RunConfig.merged("jigsaw", {"out": tmp_path / "a", "budget": "1m"}), resume=True)


@pytest.mark.slow
def test_a_dry_run_shows_what_a_budget_would_choose() -> None:
    needs = dry_run(
        RunConfig.merged("npid", {"data": ("demo:100",), "budget": "1m", "image_size": 32}),
        console=QUIET,
    )
    assert needs.options["backbone"] == "resnet10_w32_s2"  # of the preset small
    assert needs.seconds < 60
