"""Charts and tables of a probe in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from ssltool.plotting.records import Bars, Level, Lines, Matrix, Series
from ssltool.runs.records import LabelRow, Measure, ProbeRecord, ProbeRow
from ssltool.visualizing.report.parts import Chart, Table

_MEASURES: tuple[Measure, ...] = get_args(Measure)
_TITLES: dict[Measure, str] = {
    "linear": "linear",
    "knn5": "kNN, k = 5",
    "knn20": "kNN, k = 20",
    "knn200": "kNN, k = 200",
    "svm": "SVM",
    "svm_map": "SVM, mAP",
    "mlp": "MLP",
}


def best_row(probe: ProbeRecord) -> ProbeRow | None:
    """The best row of the pretrained weights, if it has a linear accuracy."""
    if probe.best is None or probe.best >= len(probe.rows):
        return None
    row = probe.rows[probe.best]
    return row if "linear" in row.accuracy else None


def probe_charts(probe: ProbeRecord) -> list[Chart]:
    """Accuracy over stages and labels, the confusion matrix and the accuracy of each class."""
    charts = []
    if stages := _stages(probe.rows):
        charts.append(Chart("Linear probe of each stage, accuracy in %", stages))
    if curves := _label_curves(probe.label_efficiency):
        charts.append(Chart("Label efficiency, accuracy in %", curves))
    if probe.details and len(probe.details.confusion) == len(probe.classes):
        counts = torch.tensor(probe.details.confusion, dtype=torch.float64)
        percent = (100 * counts / counts.sum(dim=1, keepdim=True).clamp_min(1)).round(decimals=2)
        names = probe.classes
        matrix = Matrix(percent, names, names, "true class", "predicted class", digits=0)
        charts.append(Chart("Predictions in % of each class", matrix))
    if accuracies := _per_class(probe):
        known = {name: value for name, value in accuracies.items() if value is not None}
        charts.append(Chart("Accuracy of each class", Bars(known, "accuracy, %")))
    return charts


def probe_tables(probe: ProbeRecord) -> list[Table]:
    """Accuracies, label efficiency, health of the features and the accuracy of each class."""
    tables = [_accuracy_table(probe), _label_table(probe), _health_table(probe)]
    rows = [[name, accuracy] for name, accuracy in _per_class(probe).items()]
    tables.append(Table("Accuracy of each class, %", ["class", "accuracy"], rows))
    return [table for table in tables if table.rows]


def _stages(rows: Sequence[ProbeRow]) -> Lines | None:
    """Linear accuracy over the stages, a curve for each source of features; None without stages."""
    series: dict[str, tuple[list[str], list[float]]] = {}
    levels = []
    for row in rows:
        accuracy, label = row.accuracy.get("linear"), row.source.label()
        if accuracy is None:
            continue
        if not row.stage:  # raw pixels and the majority class
            levels.append(Level(accuracy, f"{label} {accuracy:.1f} %"))
            continue
        x, y = series.setdefault(label, ([], []))
        x.append(row.stage)
        y.append(accuracy)
    if all(len(x) < 2 for x, _ in series.values()):
        return None
    curves = {name: Series(x, y) for name, (x, y) in series.items()}
    return Lines(curves, "stage", "accuracy, %", levels)


def _label_curves(rows: Sequence[LabelRow]) -> Lines | None:
    """Accuracy over the number of labeled images; None with a single number."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in sorted(rows, key=lambda row: row.images):
        x, y = series.setdefault(f"{row.source.label()}, {row.protocol}", ([], []))
        x.append(row.images)
        y.append(row.accuracy)
    if len({row.images for row in rows}) < 2:
        return None
    curves = {name: Series(x, y) for name, (x, y) in series.items()}
    return Lines(curves, "labeled images", "accuracy, %", log_x=True)


def _per_class(probe: ProbeRecord) -> dict[str, float | None]:
    if probe.details is None or len(probe.details.per_class) != len(probe.classes):
        return {}
    return dict(zip(probe.classes, probe.details.per_class, strict=True))


def _accuracy_table(probe: ProbeRecord) -> Table:
    measures = [name for name in _MEASURES if any(name in row.accuracy for row in probe.rows)]
    return Table(
        "Probes, accuracy in %",
        ["features", "stage", "dim", *(_TITLES[name] for name in measures)],
        [
            [row.source.label(), row.stage, row.dim or None]
            + [row.accuracy.get(name) for name in measures]
            for row in probe.rows
        ],
        best=probe.best,
        note=(
            f"{probe.train_images:,} training images, {probe.test_images:,} test images, "
            f"{len(probe.classes)} classes, chance level {100 / max(len(probe.classes), 1):.3g} %"
        ),
    )


def _label_table(probe: ProbeRecord) -> Table:
    return Table(
        "Label efficiency, accuracy in %",
        ["features", "protocol", "fraction", "per class", "images", "accuracy", "std"],
        [
            [
                row.source.label(),
                row.protocol,
                row.fraction,
                row.shots,
                row.images,
                row.accuracy,
                row.std,
            ]
            for row in probe.label_efficiency
        ],
    )


def _health_table(probe: ProbeRecord) -> Table:
    return Table(
        "Health of the features",
        ["features", "effective rank", "std", "uniformity", "alignment", "warning"],
        [
            [
                row.source.label(),
                row.effective_rank,
                row.std,
                row.uniformity,
                row.alignment,
                row.warning,
            ]
            for row in probe.health
        ],
    )
