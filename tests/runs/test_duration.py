"""Durations as typed and printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import UsageError
from ssltool.runs.config import RunConfig
from ssltool.runs.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1D", 86_400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "20", "m", "-5m", "0s", "30m1h", "2 weeks", "1e3s", "nan", "\u0661m"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 20m"):
        parse_duration(text)
    with pytest.raises(UsageError, match=r"--budget.*such as 90s, 20m"):
        RunConfig.merged("jigsaw", {"budget": text})


@given(st.floats(1e-3, 10**7))
def test_a_printed_duration_is_right_to_two_figures(seconds: float) -> None:
    number, unit = format_duration(seconds).split()
    size = {"s": 1, "min": 60, "h": 3600, "days": 86_400}[unit]
    assert abs(float(number) * size - seconds) <= 0.051 * seconds + 0.5 * (seconds > 9)


def test_lengths_exclude_each_other_and_the_last_one_given_wins() -> None:
    with pytest.raises(UsageError, match="--budget and --steps say how long"):
        RunConfig.merged("jigsaw", {"budget": "20m", "steps": 5})
    paper = RunConfig.merged("jigsaw", {"budget": "20m"}, preset="paper")
    assert paper.run.steps is None
