"""Errors of pydantic in plain words."""

from __future__ import annotations

from typing import Any

import pytest

import ssltool
from ssltool.errors import UsageError
from ssltool.methods.colorization.options import ColorizationOptions
from ssltool.options import choices, limits
from ssltool.probing.options import ProbeOptions
from ssltool.runs.config import RunConfig
from ssltool.runs.options import RunOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": "abc"}, "--lr abc: should be a number"),
        ({"lr": "nan"}, "--lr nan: should be a finite number"),
        ({"lr": 0}, "--lr 0: should be more than 0"),
        ({"steps": "1.5"}, "--steps 1.5: should be an integer"),
        ({"momentum": 1}, "--momentum 1: should be less than 1"),
        ({"optimizer": "adam"}, "--optimizer adam: did you mean adamw? choices: sgd, adamw, lars"),
        ({"optimizer": "x"}, "--optimizer x: should be one of sgd, adamw, lars"),
        ({"channels": "0"}, "--channels 0: should be at least 1"),
        ({"value_range": "0,1"}, "--value-range 0,1: type --channels N too"),
        ({"channels": 5, "value_range": "2,1"}, "--value-range 2,1: expected auto, LOW,HIGH"),
        ({"milestones": "0.6,x"}, "--milestones x: should be a number"),
        ({"milestones": (0.6, 2)}, "--milestones 2: should be less than 1"),
        ({"compile": "often"}, "--compile often: should be true or false"),
        ({"data": 3}, "--data 3: should be a list"),
        ({"out": 3}, "--out 3: should be a path"),
        ({"grid": 9, "lr": -1}, "--lr -1: should be more than 0; --grid 9: should be at most 5"),
        ({"temperature": 1}, "--temperature belongs to colorization and npid, not to jigsaw; "),
        ({"epcohs": 1}, "unknown option --epcohs; did you mean --epochs"),
    ],
)
def test_of_a_run(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        RunConfig.merged("jigsaw", given)
    assert str(error.value).startswith(message)


def test_choices_of_numbers_are_read_from_text() -> None:
    task = RunConfig.merged("colorization", {"last_stride": "2"}).task
    assert getattr(task, "last_stride") == 2  # noqa: B009
    assert choices(ColorizationOptions, "last_stride") == (1, 2)
    assert choices(RunOptions, "lr") == ()
    assert limits(RunOptions, "momentum") == ">= 0, < 1"


def test_of_the_python_api() -> None:
    with pytest.raises(UsageError, match=r"unknown option --knd; did you mean --kind"):
        ssltool.probe("weights", "images", knd="knn")
    with pytest.raises(UsageError, match="--protocol foo: should be zhang2016"):
        ssltool.probe("weights", "images", protocol="foo")
    with pytest.raises(UsageError, match="--data is required: type --data DIR, or --data demo"):
        ssltool.pretrain("jigsaw")
    with pytest.raises(UsageError, match="--weights is required: type --weights RUN"):
        ProbeOptions.checked(data=("demo",))
