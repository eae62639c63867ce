"""Comparison of several runs probed alike, in one ranked table."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console

from ssltool.atomic import atomic_file
from ssltool.distributed.collectives import from_main, is_main
from ssltool.distributed.parts import divided_work
from ssltool.encoders.files import find_weights
from ssltool.errors import CheckpointError, UsageError
from ssltool.plotting.colors import BASELINE
from ssltool.plotting.figures import save_plot
from ssltool.plotting.records import Bars
from ssltool.probing.measures import RowCache
from ssltool.probing.options import CompareOptions, ProbeOptions
from ssltool.probing.probe import open_inputs, protocol_of, run_probe
from ssltool.runs.probe_record import (
    MEASURES,
    PROBE_FILE,
    FeatureSource,
    ProbeProtocol,
    ProbeRecord,
)
from ssltool.runs.records import Part
from ssltool.runs.tables import Table

CHOSEN_STAGE = "linear"
EFFECTIVE_RANK = "effective rank"
# Of the pooled vector or the pixels; the linear probe has a column for the chosen stage as well.
_WHOLE = {name: "pooled linear" if name == "linear" else name for name in MEASURES}
COLUMNS = (CHOSEN_STAGE, *_WHOLE.values(), EFFECTIVE_RANK)


class ComparedRow(Part):
    """A run, or a baseline of one.

    Attributes:
        name: Shortest end of the run's path that is unique, or the baseline.
        source: Where the features come from.
        backbone: Empty for pixels and the majority class.
        steps: Steps of pretraining; 0 for baselines.
        stage: Chosen for the linear probe on held-out training images; None without one.
        values: Column -> accuracy in percent, or the effective rank.
        standard_error: Column -> standard error of the accuracy, in percentage points.
        std: Column -> deviation over random initializations, in percentage points.
    """

    name: str
    source: FeatureSource
    backbone: str
    steps: int
    stage: str | None
    values: dict[str, float]
    standard_error: dict[str, float]
    std: dict[str, float]

    def score(self, column: str) -> str:
        """A value with its standard error and deviation, for display; empty without it."""
        if column not in self.values:
            return ""
        error, std = self.standard_error.get(column), self.std.get(column)
        text = f"{self.values[column]:.1f}" + ("" if error is None else f" ± {error:.1f}")
        return text + ("" if std is None else f" / {std:.1f}")


class Comparison(Part):
    """Runs probed alike.

    Attributes:
        rows: Best first.
        sort: Column they are sorted by.
        classes: Class names.
        train_images: Number of labeled training images.
        test_images: Number of test images.
        summary: The labeled images, in words.
        protocol: How the last run was measured; all runs but for their weights.
        csv: File the table was written to.
        plot: File the column was drawn to.
    """

    rows: tuple[ComparedRow, ...]
    sort: str
    classes: tuple[str, ...]
    train_images: int = Field(ge=0)
    test_images: int = Field(ge=0)
    summary: str
    protocol: ProbeProtocol
    csv: str | None
    plot: str | None

    def table(self) -> Table:
        """For display."""
        columns = [name for name in COLUMNS if any(name in row.values for row in self.rows)]
        return Table(
            title=(
                "accuracy in % ± standard error / deviation over seeds, "
                f"{self.summary}; linear is of the stage chosen on held-out training images"
            ),
            columns=("run", "method", "stage", *columns),
            rows=[
                (
                    row.name,
                    row.source.method,
                    row.stage or "",
                    *(row.score(column) for column in columns),
                )
                for row in self.rows
            ],
            text_columns=3,
            best=next((i for i, row in enumerate(self.rows) if row.source.method), None),
        )

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        return self.table().html()


def compare(options: CompareOptions, console: Console | None = None) -> Comparison:
    """Probe several runs alike; those whose folder holds an equal probe are not probed again.

    Several processes share the work as in `ssltool.probing.probe.probe`; all return the comparison.

    Args:
        options: Which runs, on which images and how.
        console: Where progress goes; stderr if not given.

    Raises:
        SslToolError: As `ssltool.probing.probe.probe`.
    """
    if options.sort not in COLUMNS:
        raise UsageError(f"--sort {options.sort}: one of {', '.join(COLUMNS)} expected")
    names = _unique_names(options.runs)
    cache: RowCache = {}  # most runs share their random init and pixels
    with divided_work(console) as console:
        records = [_probed(options.probe_options(run), cache, console) for run in options.runs]
    rows: dict[tuple[str, FeatureSource], ComparedRow] = {}
    for name, record in zip(names, records, strict=True):
        for row in _compared_rows(name, record):
            owner = name if row.source.kind == "pretrained" else ""  # baselines are shared
            rows[owner, row.source] = row
    ordered = sorted(
        _with_unique_names(rows.values()), key=lambda row: -row.values.get(options.sort, -1.0)
    )
    last = records[-1]
    if options.csv is not None and is_main():
        _write_csv(ordered, options.csv)
    if options.to is not None and is_main():
        values = {
            row.name: row.values[options.sort] for row in ordered if options.sort in row.values
        }
        unit = "" if options.sort == EFFECTIVE_RANK else ", %"
        errors = {
            row.name: row.standard_error[options.sort]
            for row in ordered
            if options.sort in row.standard_error
        }
        baselines = {row.name: BASELINE for row in ordered if row.source.kind != "pretrained"}
        bars = Bars(values, f"{options.sort}{unit}", errors, color=baselines)
        save_plot(bars, options.to, f"Runs compared: {last.data_summary()}")
    return Comparison(
        rows=tuple(ordered),
        sort=options.sort,
        classes=last.classes,
        train_images=last.train_images,
        test_images=last.test_images,
        summary=last.data_summary(),
        protocol=last.protocol,
        csv=str(options.csv) if options.csv else None,
        plot=str(options.to) if options.to else None,
    )


def _probed(options: ProbeOptions, cache: RowCache, console: Console) -> ProbeRecord:
    """The record of the run folder if it has the same protocol, else of a new probe."""
    inputs = open_inputs(options, console)
    path = inputs.weights.parent / PROBE_FILE
    protocol = protocol_of(inputs, options)
    if from_main(lambda: _has_record(path, protocol, console)):
        console.print(f"{options.weights}: taken from {path}")
        return ProbeRecord.read(path)
    console.print(f"{options.weights}: probing")
    return run_probe(inputs, options, console, cache)


def _has_record(path: Path, protocol: ProbeProtocol, console: Console) -> bool:
    """Whether a file has a record under a protocol."""
    if not path.is_file():
        return False
    try:
        return ProbeRecord.read(path).protocol == protocol
    except CheckpointError as error:  # replaced by the new one
        console.print(f"{error}; probing again")
        return False


def _compared_rows(name: str, record: ProbeRecord) -> list[ComparedRow]:
    """One row per source of a record."""
    sources = dict.fromkeys(row.source for row in record.rows)
    return [_compared_row(name, record, source) for source in sources]


def _compared_row(name: str, record: ProbeRecord, source: FeatureSource) -> ComparedRow:
    """The chosen stage's linear accuracy, and the other measures of the source's own vector."""
    rows = [row for row in record.rows if row.source == source]
    chosen = next((row for row in rows if row.chosen), rows[0])
    whole = next((row for row in rows if row.is_whole), rows[0])
    # Column -> row and measure that it shows.
    cells = {_WHOLE[measure]: (whole, measure) for measure in whole.accuracy}
    if "linear" in chosen.accuracy:
        cells[CHOSEN_STAGE] = (chosen, "linear")

    def shown(field: Literal["accuracy", "standard_error", "std"]) -> dict[str, float]:
        values = {
            column: getattr(row, field).get(measure) for column, (row, measure) in cells.items()
        }
        return {c: values[c] for c in COLUMNS if values.get(c) is not None}

    ranks = {row.source: row.effective_rank for row in record.health}
    rank = ranks.get(source)
    return ComparedRow(
        name=_row_name(name, source),
        source=source,
        backbone=record.backbone if source.network else "",
        steps=record.steps if source.kind == "pretrained" else 0,
        stage=chosen.stage if "linear" in chosen.accuracy else None,
        values=shown("accuracy") | ({} if rank is None else {EFFECTIVE_RANK: rank}),
        standard_error=shown("standard_error"),
        std=shown("std"),
    )


def _row_name(run: str, source: FeatureSource) -> str:
    if source.kind == "pretrained":
        return source.label(run)
    return ", ".join(filter(None, (source.label(), source.network, source.input)))


def _with_unique_names(rows: Iterable[ComparedRow]) -> list[ComparedRow]:
    """Baselines that differ in more than their name says, such as their normalization, get a
    part of their identity into it.
    """
    rows = list(rows)
    counts = Counter(row.name for row in rows)
    return [
        row.model_copy(update={"name": f"{row.name}, input {row.source.identity}"})
        if counts[row.name] > 1
        else row
        for row in rows
    ]


def _unique_names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ between the runs."""
    files = [find_weights(run).absolute() for run in runs]
    paths = [file.parent if file.name == "encoder.safetensors" else file for file in files]
    if len(set(paths)) < len(paths):
        raise UsageError("a run is named twice; name each once")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _write_csv(rows: Iterable[ComparedRow], path: Path) -> None:
    rows = list(rows)
    columns = [name for name in COLUMNS if any(name in row.values for row in rows)]
    with (
        atomic_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as opened,
    ):
        writer = csv.writer(opened)
        parts = {"": "values", " standard error": "standard_error", " deviation": "std"}
        titles = [f"{column}{part}" for column in columns for part in parts]
        writer.writerow(["name", "method", "backbone", "steps", "stage", *titles])
        for row in rows:
            values = [
                getattr(row, field).get(column, "")
                for column in columns
                for field in parts.values()
            ]
            writer.writerow(
                [row.name, row.source.method, row.backbone, row.steps, row.stage or "", *values]
            )
