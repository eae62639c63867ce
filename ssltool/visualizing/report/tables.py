"""Tables of the report: metrics of a run, runs side by side, options that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssltool.plotting.units import axis_label, display_scale
from ssltool.visualizing.curves import RunMetrics
from ssltool.visualizing.report.parts import Cell, Link, Table

_POINTS = 400  # of a curve and rows of its table: more are not legible on a screen
_LAST = {"step", "epoch"}  # of averaged lines the last value is kept
_NOT_COMPARED = {"step", "epoch", "lr"}


class RunSummary(NamedTuple):
    """What is compared between runs.

    Attributes:
        name: Of the run.
        method: Of the run.
        state: How far it is.
        facts: Label -> value, the same labels in each run.
        options: Option -> value.
        metrics: Of the run.
    """

    name: str
    method: str
    state: str
    facts: Mapping[str, Cell]
    options: Mapping[str, str]
    metrics: RunMetrics


def thinned(lines: Sequence[Mapping[str, float]], most: int = _POINTS) -> list[dict[str, float]]:
    """Averages of neighboring lines, so that at most ``most`` remain; steps and epochs are the last
    of each group.
    """
    size = max(1, math.ceil(len(lines) / most))
    return [_average(lines[start : start + size]) for start in range(0, len(lines), size)]


def _average(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for line in lines for name in line)
    values = {name: [line[name] for line in lines if name in line] for name in names}
    return {n: v[-1] if n in _LAST else sum(v) / len(v) for n, v in values.items()}


def metrics_table(lines: Sequence[Mapping[str, float]]) -> Table | None:
    """The curves of a run as a table; None without any."""
    if not lines:
        return None
    averages = thinned(lines)
    names = list(dict.fromkeys(name for line in averages for name in line))
    size = math.ceil(len(lines) / len(averages))
    note = f"Each row is the average of {size} lines of metrics.jsonl." if size > 1 else ""
    rows = [[line.get(name) for name in names] for line in averages]
    return Table("Metrics of training", names, rows, note=note, folded=True)


def overview(runs: Mapping[str, RunSummary]) -> Table:
    """One row per run, of whatever method.

    Args:
        runs: By the anchor of their part of the page.
    """
    labels = list(dict.fromkeys(label for run in runs.values() for label in run.facts))
    several = len({run.method for run in runs.values()}) > 1
    rows: list[list[Cell]] = [
        [
            Link(run.name, anchor),
            *([run.method] if several else []),
            run.state,
            *(run.facts.get(label) for label in labels),
        ]
        for anchor, run in runs.items()
    ]
    return Table("Runs", ["run", *(["method"] if several else []), "state", *labels], rows)


def last_metrics(runs: Sequence[RunSummary]) -> Table:
    """One row per run of one method with its last metrics, each beside its chance level."""
    last = [run.metrics.lines[-1] if run.metrics.lines else {} for run in runs]
    names = dict.fromkeys(name for line in last for name in line if name not in _NOT_COMPARED)
    columns = ["run", "step"]
    rows: list[list[Cell]] = [
        [run.name, line.get("step")] for run, line in zip(runs, last, strict=True)
    ]
    for name in names:
        unit = next(
            r.metrics.unit(name) for r, line in zip(runs, last, strict=True) if name in line
        )
        columns.append(axis_label(name, unit))
        _append(rows, last, name, unit)
        chance = [run.metrics.chance for run in runs]
        if any(name in levels for levels in chance):
            columns.append(f"chance level of {axis_label(name, unit)}")
            _append(rows, chance, name, unit)
    return Table("Last metrics", columns, rows)


def _append(
    rows: Sequence[list[Cell]], values: Sequence[Mapping[str, float]], name: str, unit: str
) -> None:
    """Add a column of a metric to the rows, one value per run."""
    for row, of_run in zip(rows, values, strict=True):
        row.append(display_scale(unit) * of_run[name] if name in of_run else None)


def differences(runs: Sequence[RunSummary]) -> Table:
    """The options that are not the same in all runs of one method."""
    names = dict.fromkeys(name for run in runs for name in run.options if name != "--out")
    rows = [[name, *(run.options.get(name) for run in runs)] for name in names]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    note = "" if rows else "All options are the same."
    return Table("Options that differ", ["option", *(run.name for run in runs)], rows, note=note)
