"""The part of the report on one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssltool.plotting.units import describe
from ssltool.runs.duration import format_duration
from ssltool.runs.folder import VALIDATION
from ssltool.runs.probe_record import ProbeRecord
from ssltool.runs.records import RunRecord
from ssltool.visualizing.report.headline import baseline_row, chosen_row, headline, headline_measure
from ssltool.visualizing.report.options import (
    RunOptionList,
    flag_names,
    format_option,
    list_options,
)
from ssltool.visualizing.report.parts import (
    Cell,
    Chart,
    Frame,
    Headline,
    Missing,
    Place,
    Table,
    format_cell,
)
from ssltool.visualizing.report.probes import audit_table, probe_charts, probe_tables
from ssltool.visualizing.report.reading import RunFigures, RunFiles
from ssltool.visualizing.report.tables import RunSummary, metrics_table


class RunSection(NamedTuple):
    """What the page says of one run.

    Attributes:
        summary: What is compared with other runs.
        heading: Method and images in a few words.
        facts: Label -> what was trained, on what, for how long.
        headline: The first result of the probe; None without one.
        probe: The record of the probe; None without one.
        preview: The newest figure of predictions; None without one.
        options: Of the run and of the method.
        data: Label -> fact about the images.
        environment: Label -> value.
        metrics: The curves as a table.
        figures: Of the run folder.
        tables: Of the probe.
        charts: Of the probe.
        verdict: Of the audit, in words.
        audit: Its table; None without an audit.
        skipped: Images that could not be read, with reasons.
        missing: What is not there, and how to make it.
    """

    summary: RunSummary
    heading: str
    facts: Mapping[str, str]
    headline: Headline | None
    probe: ProbeRecord | None
    preview: Frame | None
    options: RunOptionList | None
    data: Mapping[str, str]
    environment: Mapping[str, str]
    metrics: Table | None
    figures: RunFigures
    tables: Sequence[Table]
    charts: Sequence[Chart]
    verdict: Sequence[str]
    audit: Table | None
    skipped: Sequence[str]
    missing: Sequence[Missing]

    @property
    def name(self) -> str:
        """Of the run."""
        return self.summary.name

    def lacks(self, place: Place) -> list[Missing]:
        """What is not there in a part of the page."""
        return [missing for missing in self.missing if missing.place == place]


def run_section(files: RunFiles) -> RunSection:
    """Build the section of a run from what its folder holds."""
    record, probe, audit = files.record, files.probe, files.audit
    method = files.method or "unknown method"
    return RunSection(
        summary=_summary(files),
        heading=f"{method} on {record.data.count:,} images" if record else method,
        facts=_facts(files, record) if record else {},
        headline=headline(probe) if probe else None,
        probe=probe,
        preview=_preview(files.figures),
        options=list_options(record) if record else None,
        data=_data(record) if record else {},
        environment=_environment(record) if record else {},
        metrics=metrics_table(files.lines),
        figures=files.figures,
        tables=probe_tables(probe) if probe else [],
        charts=probe_charts(probe) if probe else [],
        verdict=audit.verdict() if audit else [],
        audit=audit_table(audit) if audit else None,
        skipped=files.skipped,
        missing=files.missing,
    )


def _summary(files: RunFiles) -> RunSummary:
    record, probe = files.record, files.probe
    options = record.options if record else {}
    flags = flag_names(files.method)
    facts: dict[str, Cell] = {
        "backbone": format_option(options["backbone"]) if "backbone" in options else None,
        "images": f"{record.data.count:,}, {record.data.image_size} px" if record else None,
        "time": None if files.seconds is None else format_duration(files.seconds),
    }
    return RunSummary(
        files.name,
        files.method,
        _state(files.step, options.get("steps")),
        facts | (_scores(probe) if probe else {}),
        {flags.get(name, name): format_option(value) for name, value in options.items()},
        files.metrics,
    )


def _scores(probe: ProbeRecord) -> dict[str, Cell]:
    """The headline of a probe as cells of a table."""
    measure, chosen = headline_measure(probe), chosen_row(probe)
    if measure is None or chosen is None:
        return {}
    scores: dict[str, Cell] = {f"{measure} probe, %": chosen.score(measure)}
    for kind in ("random_init", "pixels", "majority"):
        if row := baseline_row(probe, kind, measure):
            scores[f"{row.source.label()}, %"] = row.score(measure)
    return scores


def _state(step: int, planned: object) -> str:
    if not isinstance(planned, int):
        return f"step {step:,}"
    return (
        f"finished, {step:,} steps"
        if step >= planned
        else f"unfinished, step {step:,} of {planned:,}"
    )


def _facts(files: RunFiles, record: RunRecord) -> dict[str, str]:
    """What was trained, on what, for how long, and how well it solves its task."""
    options, data = record.options, record.data
    per_step = data.batch_size * int(options.get("accumulate", 1))
    facts = {
        "images": record.source.description,
        "image size": f"{data.image_size} px" + (", gray" if data.gray else ""),
        "backbone": _backbone(record),
    }
    if files.step:
        epochs = files.step * per_step / max(1, data.count)
        facts["training"] = (
            f"{files.step:,} steps of {per_step:,} images, {format_cell(round(epochs, 1))} epochs"
        )
    if files.seconds is not None:
        device = record.environment.get("device", "")
        device = device.upper() if device in {"cpu", "mps"} else device
        facts["time"] = format_duration(files.seconds) + (f" on {device}" if device else "")
    if files.best:
        facts["best encoder"] = f"{files.best}; {VALIDATION}"
    if score := _last_score(files):
        facts["pretext task"] = score
    return facts


def _backbone(record: RunRecord) -> str:
    options = record.options
    details = []
    if options.get("stem") == "small":
        details.append("small stem")
    if channels := options.get("channels"):
        details.append(f"{channels} channel{'s' * (channels != 1)}")
    name = format_option(options.get("backbone"))
    return f"{name}, {', '.join(details)}" if details else name


def _last_score(files: RunFiles) -> str:
    """The last value of the task's first metric beside chance level; of the loss, if the task has
    no other.
    """
    metrics, last = files.metrics, files.lines[-1] if files.lines else {}
    name = next((n for n in metrics.chance if n in last and n != "loss"), "loss")
    if name not in last:
        return ""
    return describe(name, last[name], metrics.unit(name), metrics.chance.get(name))


def _preview(figures: RunFigures) -> Frame | None:
    """The newest figure of predictions."""
    if figures.predictions:
        return figures.predictions[-1]
    return next((frame for frame in figures.others if frame.title == "predictions"), None)


def _data(record: RunRecord) -> dict[str, str]:
    data = record.data
    return {
        "gray": format_cell(data.gray),
        "mean of R, G, B": format_option(data.mean),
        "std of R, G, B": format_option(data.std),
        "fingerprint": record.source.fingerprint[:16],
    }


def _environment(record: RunRecord) -> dict[str, str]:
    precision = f"{record.precision.name}: {record.precision.reason}"
    return {"ssltool": record.ssltool, **record.environment, "precision": precision}
