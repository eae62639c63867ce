from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssltool.methods.registry import available
from ssltool.runs.config import RunConfig
from ssltool.visualizing.task import draw_task


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in {"jigsaw", "npid"} else pytest.mark.slow)
        for name in sorted(available())
    ],
)
def test_every_task_is_drawn_alike_from_the_same_seed(
    method: str, tmp_path: Path, figure_bytes: Any
) -> None:
    config = RunConfig.merged(method, {"data": ("demo:8",)})
    first, second, other = (
        draw_task(config, tmp_path / f"{name}.png", count=3, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (first.method, first.images) == (method, 3)
    assert figure_bytes(first.path) == figure_bytes(second.path)
    assert figure_bytes(first.path) != other.path.read_bytes()


def test_the_task_of_a_file(photo: Path, tmp_path: Path, figure_bytes: Any) -> None:
    config = RunConfig.merged("jigsaw", {"image_size": 32})
    result = draw_task(config, tmp_path / "task.png", image=[photo])
    assert result.images == 1
    figure_bytes(result.path)


@pytest.mark.slow
def test_plots_of_a_task_stand_beside_its_sheet(tmp_path: Path, figure_bytes: Any) -> None:
    config = RunConfig.merged("colorization", {"data": ("demo:8",)})
    result = draw_task(config, tmp_path / "task.png")
    assert [path.name for path in result.plots] == ["task-colors.png", "task-weights.png"]
    for path in result.plots:
        figure_bytes(path)
