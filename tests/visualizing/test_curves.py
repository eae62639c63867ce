from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ssltool.errors import UsageError
from ssltool.plotting.records import Series
from ssltool.visualizing.curves import RunMetrics, draw_curves, metric_plots, with_curves

UNITS = {"loss": "", "accuracy": "fraction"}
LINES = [
    {"step": step, "epoch": 0, "loss": 4 - step / 20, "accuracy": step / 50, "lr": 0.1}
    for step in (10, 20, 30)
]


def test_metrics_are_plotted_in_their_units_with_chance_levels() -> None:
    run = RunMetrics(LINES, UNITS, {"loss": math.log(100), "accuracy": 0.01})
    plots = metric_plots({"a": run})
    assert list(plots) == ["loss", "accuracy", "lr"]
    assert plots["loss"].series == {"a": Series([10, 20, 30], [3.5, 3.0, 2.5], 0)}
    assert [level[:2] for level in plots["loss"].levels] == [(math.log(100), "chance level")]
    assert plots["accuracy"].y_label == "accuracy, %"
    assert plots["accuracy"].series["a"].y == [20, 40, 60]
    assert [level.text for level in plots["accuracy"].levels] == ["chance level 1"]
    assert not plots["lr"].levels


def test_chance_levels_that_differ_name_their_runs() -> None:
    def labels(first: float, second: float) -> list[tuple[str, int | None]]:
        of_runs = {
            "a": RunMetrics(LINES, UNITS, {"loss": first}),
            "b": RunMetrics(LINES[:2], UNITS, {"loss": second}),
        }
        plot = metric_plots(of_runs)["loss"]
        assert list(plot.series) == ["a", "b"]
        return [(level.text, level.color) for level in plot.levels]

    assert labels(2, 2) == [("chance level 2", None)]
    assert labels(2, 3) == [("chance level 2 of a", 0), ("chance level 3 of b", 1)]


def test_a_run_keeps_its_color_where_another_lacks_the_metric() -> None:
    later = [*LINES[:1], {**LINES[1], "knn": 0.5}]
    plots = metric_plots({"a": RunMetrics(LINES), "b": RunMetrics(later)})
    assert plots["knn"].series == {"b": Series([20], [50.0], 1)}  # a fraction by itself
    assert "knn" not in with_curves(plots)
    assert with_curves({"loss": plots["loss"]}) == {"loss": plots["loss"]}


def test_losses_that_fall_by_decades_have_a_logarithmic_axis() -> None:
    def log_y(values: list[float], name: str = "loss", chance: float = 5.0) -> bool:
        lines = [{"step": i, name: value} for i, value in enumerate(values)]
        return metric_plots({"a": RunMetrics(lines, UNITS, {name: chance})})[name].log_y

    assert log_y([1000, 3, 2, 1])
    assert not log_y([10, 3, 2, 1])
    assert not log_y([1000, 3, 2, 1], chance=0.0)  # it would not be on the axis
    assert not log_y([1000, 3, 2, -1])
    assert not log_y([0.9, 0.001, 0.001, 0.001], "accuracy", 0.01)


def test_a_run_with_one_line_has_no_curve_yet(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (tmp_path / "metrics.jsonl").write_text(first + "\n")
    with pytest.raises(UsageError, match="one line of metrics so far, and a curve needs two"):
        draw_curves([tmp_path], tmp_path / "a.png")


@pytest.mark.slow
@pytest.mark.ci
def test_the_curves_of_runs(run: Path, tmp_path: Path, figure_bytes: Any) -> None:
    (tmp_path / "copy").mkdir()
    for name in ("run.json", "metrics.jsonl"):
        (tmp_path / "copy" / name).write_bytes((run / name).read_bytes())
    result = draw_curves([run, tmp_path / "copy"], tmp_path / "both.png")
    assert (result.path, result.steps) == (tmp_path / "both.png", 4)
    figure_bytes(result.path)
    first, second = (draw_curves([run], tmp_path / name).path for name in ("a.svg", "b.svg"))
    assert first.read_bytes() == second.read_bytes()


def test_a_run_without_metrics_and_no_run_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(UsageError, match="no metrics yet; they come with the first 1 steps"):
        draw_curves([tmp_path / "new"], tmp_path / "a.png")
    with pytest.raises(UsageError, match="is not a run folder"):
        draw_curves([tmp_path], tmp_path / "a.png")
