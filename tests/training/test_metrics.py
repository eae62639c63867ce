from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import NonFiniteLossError
from ssltool.runs import metrics
from ssltool.training.loop import StepReport
from ssltool.training.metrics import Meter


def step(number: int, loss: float) -> StepReport:
    metrics = {"accuracy": torch.tensor(loss / 10)}
    return StepReport(number, 0, torch.tensor(loss), metrics, torch.tensor(1.5), 0.1, 8, 0.0)


def test_a_line_averages_the_steps_since_the_last() -> None:
    meter = Meter()
    for number, loss in ((1, 2.0), (2, 4.0)):
        meter.add(step(number, loss))
    line = meter.line()
    assert line["step"] == 2
    assert line["loss"] == pytest.approx(3.0)
    assert line["accuracy"] == pytest.approx(0.3)
    meter.add(step(3, 1.0))
    assert meter.line()["loss"] == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 8)), min_size=1, max_size=9))
def test_a_step_counts_as_much_as_its_images(steps: list[tuple[float, int]]) -> None:
    """As the mean over all images, written one after the other."""
    meter = Meter()
    for number, (loss, counted) in enumerate(steps, 1):
        meter.add(step(number, loss)._replace(counted=torch.tensor(counted)))
    line = meter.line()
    every = [loss for loss, counted in steps for _ in range(counted)] or [0.0]
    assert line["loss"] == pytest.approx(sum(every) / len(every), abs=1e-6)
    assert line["accuracy"] == pytest.approx(sum(every) / len(every) / 10, abs=1e-6)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_the_first_broken_step_is_named(loss: float) -> None:
    meter = Meter()
    for number, value in ((7, 1.0), (8, loss), (9, loss)):
        meter.add(step(number, value))
    with pytest.raises(NonFiniteLossError, match="step 8"):
        meter.line()


def test_lines_after_a_resumed_step_and_a_torn_last_line_are_dropped(tmp_path: Path) -> None:
    for number in (10, 20, 30):
        metrics.append(tmp_path, {"step": number, "loss": 1.0})
    with (tmp_path / metrics.METRICS).open("a") as file:
        file.write('{"step": 40, "lo')
    assert [line["step"] for line in metrics.read(tmp_path)] == [10, 20, 30]
    metrics.trim(tmp_path, 20)
    metrics.append(tmp_path, {"step": 30, "loss": 2.0})
    assert [(line["step"], line["loss"]) for line in metrics.read(tmp_path)] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
    ]
