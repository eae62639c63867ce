"""The section of the report on one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssltool.plotting.units import format_value, metric_title
from ssltool.runs.probe_record import ProbeRow
from ssltool.runs.records import RunRecord
from ssltool.visualizing.report.parts import Cell, Chart, Table, format_cell
from ssltool.visualizing.report.probes import chosen_row, probe_charts, probe_tables
from ssltool.visualizing.report.reading import RunFigures, RunFiles
from ssltool.visualizing.report.tables import RunSummary, metrics_table

_HIGHLIGHTS = 5  # metrics shown large


class RunSection(NamedTuple):
    """What the page says of one run.

    Attributes:
        summary: What is compared with other runs.
        heading: Method and data in a few words.
        highlights: Label -> value shown large on top, and a small line below it.
        data: Label -> fact about the images.
        environment: Label -> value.
        metrics: The curves as a table.
        figures: Of the run folder.
        tables: Of the probe.
        charts: Of the probe.
        skipped: Images that could not be read, with reasons.
        missing: Sentences on what is not there and how to get it.
    """

    summary: RunSummary
    heading: str
    highlights: Mapping[str, tuple[str, str]]
    data: Mapping[str, str]
    environment: Mapping[str, str]
    metrics: Table | None
    figures: RunFigures
    tables: Sequence[Table]
    charts: Sequence[Chart]
    skipped: Sequence[str]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        """Of the run."""
        return self.summary.name


def run_section(files: RunFiles) -> RunSection:
    """Build the section of a run from what its folder holds."""
    record, probe = files.record, files.probe
    chosen = chosen_row(probe) if probe else None
    options = record.options if record else {}
    facts: dict[str, Cell] = {
        "backbone": format_option(options["backbone"]) if "backbone" in options else None,
        "images": record.data.count if record else None,
        "linear probe, %": chosen.accuracy["linear"] if chosen else None,
    }
    description = record.source.description if record else "unknown images"
    return RunSection(
        summary=RunSummary(
            files.name,
            files.method,
            _state(files.step, options.get("steps")),
            facts,
            {name: format_option(value) for name, value in options.items()},
            files.metrics,
        ),
        heading=f"{files.method or 'unknown method'} on {description}",
        highlights=_highlights(files, chosen),
        data=_data(record) if record else {},
        environment=_environment(record) if record else {},
        metrics=metrics_table(files.lines),
        figures=files.figures,
        tables=probe_tables(probe) if probe else [],
        charts=probe_charts(probe) if probe else [],
        skipped=files.skipped,
        missing=files.missing,
    )


def _state(step: int, planned: object) -> str:
    if not isinstance(planned, int):
        return f"step {step:,}"
    return (
        f"finished, {step:,} steps"
        if step >= planned
        else f"unfinished, step {step:,} of {planned:,}"
    )


def _highlights(files: RunFiles, chosen: ProbeRow | None) -> dict[str, tuple[str, str]]:
    """What stands large on top of a run: label -> value and a small line."""
    highlights = {}
    if record := files.record:
        highlights["backbone"] = (format_option(record.options.get("backbone")), "")
        highlights["images"] = (f"{record.data.count:,}", f"{record.data.image_size} px")
    metrics, last = files.metrics, files.lines[-1] if files.lines else {}
    shown = [name for name in dict.fromkeys(("loss", *metrics.chance, "knn")) if name in last]
    for name in shown[:_HIGHLIGHTS]:
        unit, level = metrics.unit(name), ""
        if name in metrics.chance:
            level = f"chance level {format_value(metrics.chance[name], unit)}"
        highlights[metric_title(name)] = (format_value(last[name], unit), level)
    if chosen:
        highlights["linear probe"] = (f"{chosen.score('linear')} %", chosen.stage)
    return highlights


def _data(record: RunRecord) -> dict[str, str]:
    data = record.data
    return {
        "from": record.source.description,
        "images": f"{data.count:,}",
        "image size, px": str(data.image_size),
        "gray": format_cell(data.gray),
        "mean of R, G, B": format_option(data.mean),
        "std of R, G, B": format_option(data.std),
        "batch size": str(data.batch_size),
        "fingerprint": record.source.fingerprint[:16],
    }


def _environment(record: RunRecord) -> dict[str, str]:
    precision = f"{record.precision.name}: {record.precision.reason}"
    return {"ssltool": record.ssltool, **record.environment, "precision": precision}


def format_option(value: Any) -> str:
    """Text of a JSON value."""
    match value:
        case None:
            return "none"
        case dict():
            return ", ".join(f"{key} {format_option(part)}" for key, part in value.items())
        case list() | tuple():
            return ", ".join(map(format_option, value)) or "none"
        case bool() | float():
            return format_cell(value)
        case _:
            return str(value)
