"""Charts and tables of a probe and of an audit in the report."""

from __future__ import annotations

from ssltool.plotting.records import Lines
from ssltool.probing.plots import record_plots
from ssltool.runs.audit_record import AuditRecord
from ssltool.runs.probe_record import MEASURES, ProbeRecord
from ssltool.visualizing.report.parts import Chart, Table

_MAX_CLASSES = 200  # of a confusion matrix that can be read by pointing at it


def probe_charts(probe: ProbeRecord) -> list[Chart]:
    """Accuracy over stages and labels, the confusion matrix and the accuracy of each class."""
    charts = []
    for heading, plot in record_plots(probe, _MAX_CLASSES).values():
        unit = f": {plot.y_label}" if isinstance(plot, Lines) else ""
        charts.append(Chart(f"{heading[:1].upper()}{heading[1:]}{unit}", plot))
    return charts


def probe_tables(probe: ProbeRecord) -> list[Table]:
    """Accuracies, label efficiency, health of the features and the accuracy of each class."""
    tables = [_accuracy_table(probe), _label_table(probe), _health_table(probe)]
    per_class = _per_class(probe).items()
    rows = [[name, None if value is None else round(value, 1)] for name, value in per_class]
    tables.append(Table("Accuracy of each class", ["class", "accuracy, %"], rows, folded=True))
    return [table for table in tables if table.rows]


def audit_table(audit: AuditRecord) -> Table:
    """The findings of an audit."""
    (table,) = audit.tables()
    return Table(table.title, table.columns, table.rows)


def _per_class(probe: ProbeRecord) -> dict[str, float | None]:
    if probe.details is None:
        return {}
    return dict(zip(probe.classes, probe.details.per_class, strict=True))


def _accuracy_table(probe: ProbeRecord) -> Table:
    measures = [name for name in MEASURES if any(name in row.accuracy for row in probe.rows)]
    return Table(
        "Accuracy in %",
        ["features", "stage", "dim", *(MEASURES[name] for name in measures)],
        [
            [row.source.label(), f"{row.stage} *" if row.chosen else row.stage, row.dim or None]
            + [row.score(name) or None for name in measures]
            for row in probe.rows
        ],
        best=probe.chosen,
        note=(
            f"{probe.table_legend()}; {probe.data_summary()}, chance level "
            f"{100 / max(len(probe.classes), 1):.3g} %"
        ),
    )


def _label_table(probe: ProbeRecord) -> Table:
    return Table(
        "Label efficiency, accuracy in %",
        ["features", "protocol", "fraction", "per class", "images", "accuracy"],
        [
            [
                row.source.label(),
                row.protocol,
                row.fraction,
                row.shots,
                row.images,
                row.score(),
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
                row.warning or row.reason,
            ]
            for row in probe.health
        ],
    )
