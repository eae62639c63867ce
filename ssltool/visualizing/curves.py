"""Training curves of runs, with chance levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ssltool.errors import UsageError
from ssltool.plotting.figures import save_figure
from ssltool.plotting.lines import panels
from ssltool.plotting.records import Level, Lines, Series
from ssltool.plotting.units import TRAINING_UNITS, axis_label, display_scale
from ssltool.runs.folder import Run, short_names
from ssltool.runs.records import RunRecord
from ssltool.visualizing.results import FigureResult

_NOT_DRAWN = {"step", "epoch"}
_BOUNDED = {"fraction", "dB"}
_DECADES = 100.0
_SPEED = {"images_per_s", "data_wait"}


class RunMetrics(NamedTuple):
    """The metrics of one run.

    Attributes:
        lines: Lines of ``metrics.jsonl``, ascending steps.
        units: Unit by metric; a plain number where it is missing.
        chance: Chance level by metric, for those that have one.
    """

    lines: Sequence[Mapping[str, float]]
    units: Mapping[str, str] = {}
    chance: Mapping[str, float] = {}

    @classmethod
    def of(cls, record: RunRecord, lines: Sequence[Mapping[str, float]]) -> RunMetrics:
        """The metrics of a run that declares its units and chance levels."""
        units = {metric.name: metric.unit for metric in record.metrics}
        return cls(lines, {**TRAINING_UNITS, **units}, record.chance)

    def unit(self, name: str) -> str:
        """Unit of a metric."""
        return self.units.get(name, TRAINING_UNITS.get(name, ""))


class CurvesFigure(FigureResult):
    """What `draw_curves` drew.

    Attributes:
        steps: Steps of the longest run.
    """

    steps: int


def draw_curves(folders: Sequence[Path], path: Path) -> CurvesFigure:
    """Draw the metrics of one or more runs over their steps, with chance levels.

    Args:
        folders: Run folders.
        path: File to write, PNG, SVG or PDF by its suffix.

    Raises:
        UsageError: A folder is no run folder, or its run has no metrics yet, or one line of them.
        CheckpointError: A ``run.json`` is damaged.
    """
    of_runs, methods = {}, []
    for folder, name in zip(folders, short_names(folders), strict=True):
        run = Run.open(folder)
        lines = run.metrics()
        every = run.config.run.log_every
        if not lines:
            raise UsageError(f"{folder} has no metrics yet; they come with the first {every} steps")
        of_runs[name] = RunMetrics.of(run.record, lines)
        methods.append(run.record.method)
    title = f"Training metrics of {', '.join(dict.fromkeys(methods))}"
    if len(folders) == 1:
        title += f", run {folders[0].resolve().name}"
    plots = {n: plot for n, plot in with_curves(metric_plots(of_runs)).items() if n not in _SPEED}
    if not plots:
        raise UsageError(
            f"{', '.join(map(str, folders))}: one line of metrics so far, and a curve needs two; "
            f"they come every {every} steps"
        )
    save_figure(panels(list(plots.values()), title), path)
    steps = max(int(run.lines[-1]["step"]) for run in of_runs.values())
    return CurvesFigure(path=path, steps=steps)


def metric_plots(runs: Mapping[str, RunMetrics]) -> dict[str, Lines]:
    """One plot per metric over the steps of all runs, in the order of the metrics.

    Args:
        runs: Metrics by the name of the run, which has the same color in every plot.
    """
    lines = [line for run in runs.values() for line in run.lines]
    names = dict.fromkeys(name for line in lines for name in line if name not in _NOT_DRAWN)
    return {name: _metric_plot(name, runs) for name in names}


def with_curves(plots: Mapping[str, Lines]) -> dict[str, Lines]:
    """The plots in which at least one run has two points."""
    return {
        name: plot
        for name, plot in plots.items()
        if any(len(series.x) > 1 for series in plot.series.values())
    }


def _metric_plot(name: str, runs: Mapping[str, RunMetrics]) -> Lines:
    series = {}
    for color, (run_name, run) in enumerate(runs.items()):
        lines, scale = [line for line in run.lines if name in line], display_scale(run.unit(name))
        if lines:
            x, y = [line["step"] for line in lines], [scale * line[name] for line in lines]
            series[run_name] = Series(x, y, color)
    drawn = {run_name: runs[run_name] for run_name in series}
    unit = next(run.unit(name) for run in drawn.values())
    levels = _chance_levels(name, drawn, series)
    return Lines(
        series, "step", axis_label(name, unit), levels, log_y=_spans_decades(unit, series, levels)
    )


def _spans_decades(unit: str, series: Mapping[str, Series], levels: Sequence[Level]) -> bool:
    """Whether a linear axis would show most of the values as one: those of no bounded unit, all
    positive, and half of them below a hundredth of the largest.
    """
    values = [y for each in series.values() for y in each.y]
    if unit in _BOUNDED or min([*values, *(level.value for level in levels)]) <= 0:
        return False
    return median(values) < max(values) / _DECADES


def _chance_levels(
    name: str, runs: Mapping[str, RunMetrics], series: Mapping[str, Series]
) -> list[Level]:
    """Each chance level once; levels that differ have their run's name and color."""
    by_value: dict[float, list[str]] = {}
    for run_name, run in runs.items():
        if name in run.chance:
            value = display_scale(run.unit(name)) * run.chance[name]
            by_value.setdefault(value, []).append(run_name)
    levels = []
    for value, names in by_value.items():
        shared = len(names) == len(runs)
        owners = "" if shared else ", ".join(names)
        color = None if len(by_value) == 1 else series[names[0]].color
        levels.append(Level(value, "chance level", color, owners))
    return levels
