"""Plots of a probe's record: confusion matrix, accuracy per class, label efficiency."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from ssltool.plotting import charts
from ssltool.runs.records import ProbeRecord

_MAX_CLASSES = 60  # of a legible confusion matrix


def draw_plots(record: ProbeRecord, folder: Path) -> list[Path]:
    """Write the plots of a record as PNG files.

    Returns:
        The files, those for which the record has data.
    """
    figures = {
        "probe-confusion.png": confusion_plot(record),
        "probe-classes.png": class_plot(record),
        "probe-labels.png": label_efficiency_plot(record),
    }
    return [charts.save_figure(figure, folder / name) for name, figure in figures.items() if figure]


def confusion_plot(record: ProbeRecord) -> Figure | None:
    """Predictions of the best row in percent of each true class; None without them."""
    if record.details is None or len(record.classes) > _MAX_CLASSES:
        return None
    counts = torch.tensor(record.details.confusion).double()
    return charts.matrix(
        (100 * counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy(),
        record.classes,
        record.classes,
        "true class",
        "predicted class",
        title=f"{_best_row(record)}: predictions in % of each class",
        digits=0,
    )


def class_plot(record: ProbeRecord) -> Figure | None:
    """Accuracy of the best row for each class that has test images; None without predictions."""
    if record.details is None or len(record.classes) > _MAX_CLASSES:
        return None
    accuracies = zip(record.classes, record.details.per_class, strict=True)
    return charts.bars(
        {name: value for name, value in accuracies if value is not None},
        "test accuracy, percent",
        title=f"{_best_row(record)}: accuracy of each class",
    )


def label_efficiency_plot(record: ProbeRecord) -> Figure | None:
    """Accuracy over the number of labeled images, one curve per source and protocol; None with
    fewer than two points.
    """
    rows = [row for row in record.label_efficiency if row.protocol != "scratch"]
    counts = sorted({row.images for row in rows})
    if len(counts) < 2:
        return None
    accuracy = {(row.curve(), row.images): row.accuracy for row in rows}
    curves = dict.fromkeys(row.curve() for row in rows)
    return charts.lines(
        counts,
        {name: [accuracy.get((name, n), float("nan")) for n in counts] for name in curves},
        "labeled images",
        "test accuracy, percent",
        title=f"{record.method}, {record.backbone}: label efficiency",
        log_x=True,
    )


def _best_row(record: ProbeRecord) -> str:
    assert record.best is not None, "details are of the best row"
    return f"{record.method}, {record.backbone}, {record.rows[record.best].stage}"
