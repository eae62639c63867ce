"""Plots of a probe's record: stages, confusion matrix, accuracy per class, label efficiency."""

from __future__ import annotations

from pathlib import Path

import torch

from ssltool.plotting.figures import save_plot
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Series
from ssltool.runs.probe_record import ProbeRecord

_PRINTED = 60  # classes of a confusion matrix that is legible as an image


def draw_plots(record: ProbeRecord, folder: Path) -> list[Path]:
    """Write the plots of a record as PNG files ``probe-NAME.png``; return them."""
    title = f"{record.method}, {record.backbone}"
    return [
        save_plot(plot, folder / f"probe-{name}.png", f"{title}: {heading}")
        for name, (heading, plot) in record_plots(record, _PRINTED).items()
    ]


def record_plots(record: ProbeRecord, max_classes: int) -> dict[str, tuple[str, Plot]]:
    """The plots for which a record has data: name -> heading and plot.

    Args:
        record: Of a probe.
        max_classes: With more classes, none of them is plotted class by class.
    """
    by_class = len(record.classes) <= max_classes
    stage = "" if record.chosen is None else f" at {record.rows[record.chosen].stage}"
    plots: dict[str, tuple[str, Plot | None]] = {
        "stages": ("linear probe of each stage", stage_accuracy(record)),
        "labels": ("label efficiency", label_efficiency(record)),
        "confusion": (
            f"predictions in % of each class{stage}",
            confusion(record) if by_class else None,
        ),
        "classes": (f"accuracy of each class{stage}", class_accuracy(record) if by_class else None),
    }
    return {name: (heading, plot) for name, (heading, plot) in plots.items() if plot is not None}


def stage_accuracy(record: ProbeRecord) -> Lines | None:
    """Linear accuracy over the stages, one curve per source; None without stages."""
    series: dict[str, tuple[list[str], list[float]]] = {}
    levels = []
    for row in record.rows:
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
    return Lines(curves, "stage", "test accuracy, %", levels)


def label_efficiency(record: ProbeRecord) -> Lines | None:
    """Accuracy over the number of labeled images, one curve per source and protocol; None with
    fewer than two points.
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    rows = [row for row in record.label_efficiency if row.protocol != "scratch"]
    for row in sorted(rows, key=lambda row: row.images):
        x, y = series.setdefault(row.curve(), ([], []))
        x.append(row.images)
        y.append(row.accuracy)
    if len({row.images for row in rows}) < 2:
        return None
    curves = {name: Series(x, y) for name, (x, y) in series.items()}
    return Lines(curves, "labeled images", "test accuracy, %", log_x=True)


def confusion(record: ProbeRecord) -> Matrix | None:
    """Predictions of the chosen row in percent of each true class; None without them."""
    if record.details is None:
        return None
    counts = torch.tensor(record.details.confusion).double()
    percent = 100 * counts / counts.sum(1, keepdim=True).clamp_min(1)
    return Matrix(
        percent, record.classes, record.classes, "true class", "predicted class", digits=0
    )


def class_accuracy(record: ProbeRecord) -> Bars | None:
    """Accuracy of the chosen row for each class with test images; None without predictions."""
    if record.details is None:
        return None
    accuracies = zip(record.classes, record.details.per_class, strict=True)
    return Bars({n: value for n, value in accuracies if value is not None}, "test accuracy, %")
