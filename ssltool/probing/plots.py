"""Plots of a probe's record: stages, confusion matrix, accuracy per class, label efficiency."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from ssltool.plotting.colors import BASELINE
from ssltool.plotting.figures import save_plot
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Series
from ssltool.runs.probe_record import POOLED, FeatureKind, ProbeRecord

_MATRIX = 1000  # classes of a confusion matrix that an image can show
_BARS = 60  # classes that are legible as bars
_GRID = " grid"  # ends the name of a stage's grid features


def draw_plots(record: ProbeRecord, folder: Path) -> list[Path]:
    """Write the plots of a record as PNG files ``probe-NAME.png``; return them."""
    title = f"{record.method}, {record.backbone}"
    return [
        save_plot(plot, folder / f"probe-{name}.png", f"{title}: {heading}")
        for name, (heading, plot) in record_plots(record, _MATRIX).items()
    ]


def record_plots(record: ProbeRecord, max_classes: int) -> dict[str, tuple[str, Plot]]:
    """The plots for which a record has data: name -> heading and plot.

    Args:
        record: Of a probe.
        max_classes: With more classes, none of them is plotted class by class.
    """
    classes = len(record.classes)
    stage = "" if record.chosen is None else f" at {record.rows[record.chosen].stage}"
    plots: dict[str, tuple[str, Plot | None]] = {
        "stages": ("linear probe of each stage", stage_accuracy(record)),
        "labels": ("label efficiency", label_efficiency(record)),
        "confusion": (
            f"predictions in % of each class{stage}",
            confusion(record) if classes <= max_classes else None,
        ),
        "classes": (
            f"accuracy of each class{stage}",
            class_accuracy(record) if classes <= min(max_classes, _BARS) else None,
        ),
    }
    return {name: (heading, plot) for name, (heading, plot) in plots.items() if plot is not None}


class _Point(NamedTuple):
    """A point of a curve, with its standard error."""

    x: str
    y: float
    error: float


def stage_accuracy(record: ProbeRecord) -> Lines | None:
    """Linear accuracy over the stages; None without stages.

    One curve per source of the stages' averages, in the order of the network, up to the encoder's
    own vector, and one of their grids. Baselines are gray.
    """
    curves: dict[tuple[str, bool], list[_Point]] = {}
    kinds: dict[str, FeatureKind] = {}
    levels = []
    for row in record.rows:
        accuracy, label = row.accuracy.get("linear"), row.source.label()
        if accuracy is None:
            continue
        if not row.stage:  # raw pixels and the majority class
            levels.append(Level(accuracy, label))
            continue
        kinds[label] = row.source.kind
        stage, grid = row.stage.removesuffix(_GRID), row.stage.endswith(_GRID)
        point = _Point(stage, accuracy, row.standard_error.get("linear", 0.0))
        curves.setdefault((label, grid), []).append(point)
    if all(len(points) < 2 for points in curves.values()):
        return None
    order = _stage_order([point.x for points in curves.values() for point in points])
    series = {}
    for color, label in enumerate(sorted(kinds, key=lambda name: kinds[name] != "pretrained")):
        index = color if kinds[label] == "pretrained" else BASELINE
        for grid in (False, True):
            points = sorted(curves.get((label, grid), []), key=lambda p: order[p.x])
            if points:
                name = f"{label}, grid" if grid else label
                x, y, error = zip(*points, strict=True)
                series[name] = Series(x, y, index, error if any(error) else ())
    ordered = dict(sorted(series.items(), key=lambda item: order[str(item[1].x[0])]))
    return Lines(ordered, "stage", "test accuracy, %", levels)


def _stage_order(names: list[str]) -> dict[str, int]:
    """Stages in the order of the rows, but the encoder's own vector after them, as it is computed
    from the last.
    """
    unique = list(dict.fromkeys(names))
    own = [name for name in unique if name == POOLED]
    return {name: i for i, name in enumerate([n for n in unique if n not in own] + own)}


def label_efficiency(record: ProbeRecord) -> Lines | None:
    """Accuracy over the number of labeled images, one curve per source and protocol; None with
    fewer than two points. Curves without pretraining are gray.
    """
    rows = [row for row in record.label_efficiency if row.protocol != "scratch"]
    if len({row.images for row in rows}) < 2:
        return None
    points: dict[str, list[tuple[float, float, float]]] = {}
    baselines = set()
    for row in sorted(rows, key=lambda row: row.images):
        spread = row.standard_error if row.std is None else max(row.std, row.standard_error)
        points.setdefault(row.curve(), []).append((row.images, row.accuracy, spread))
        if row.source.kind != "pretrained":
            baselines.add(row.curve())
    curves = {}
    for name, own in points.items():
        x, y, error = zip(*own, strict=True)
        color = BASELINE if name in baselines else None
        curves[name] = Series(x, y, color, error if any(error) else ())
    return Lines(curves, "labeled images", "test accuracy, %", log_x=True)


def confusion(record: ProbeRecord) -> Matrix | None:
    """Predictions of the chosen row in percent of each true class; None without them."""
    if record.details is None:
        return None
    counts = torch.tensor(record.details.confusion).double()
    percent = 100 * counts / counts.sum(1, keepdim=True).clamp_min(1)
    return Matrix(
        percent,
        record.classes,
        record.classes,
        "true class",
        "predicted class",
        digits=0,
        value_label="predictions, % of the true class",
        limits=(0.0, 100.0),
        small_values=True,
    )


def class_accuracy(record: ProbeRecord) -> Bars | None:
    """Accuracy of the chosen row for each class with test images; None without predictions."""
    if record.details is None:
        return None
    accuracies = zip(record.classes, record.details.per_class, strict=True)
    return Bars({n: value for n, value in accuracies if value is not None}, "test accuracy, %")
