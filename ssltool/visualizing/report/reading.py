"""Reading of run folders that may be unfinished, damaged or incomplete."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from ssltool.errors import CheckpointError, SslToolError, UsageError, WeightsError
from ssltool.methods.registry import find_method
from ssltool.runs import metrics
from ssltool.runs.audit_record import AUDIT_FILE, AuditRecord
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import FIGURES, SKIPPED, WEIGHTS, BestWeights, best_weights
from ssltool.runs.probe_record import PROBE_FILE, ProbeRecord
from ssltool.runs.records import RUN_FILE, Record, RunRecord
from ssltool.visualizing.curves import RunMetrics
from ssltool.visualizing.report.parts import Frame, Missing, Place

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=Record)

_OTHERS_SHOWN = 12  # further figures shown
_SKIPPED_SHOWN = 200  # lines of skipped.txt shown
_AUDIT_FIGURE = "audit"
_TITLES = {
    "task": "The task as the network receives it",
    "samples": "Some of the training images",
    _AUDIT_FIGURE: "Score under each condition",
}
_PLOTS = ("probe-stages", "probe-labels", "probe-confusion", "probe-classes")


class RunFigures(NamedTuple):
    """The figures of a run.

    Attributes:
        task: The pretext task, if it was drawn.
        samples: Some of the data, if it was drawn.
        predictions: Over the steps, evenly spread.
        left_out: Number of predictions that are not shown, to keep the page small.
        audit: The scores of the audit, if they were drawn.
        others: Further figures.
        missing: What is not there, and how to make it.
    """

    task: Frame | None
    samples: Frame | None
    predictions: Sequence[Frame]
    left_out: int
    audit: Frame | None
    others: Sequence[Frame]
    missing: Sequence[Missing]


class RunFiles(NamedTuple):
    """What a run folder holds; whatever cannot be read is empty and named in ``missing``.

    Attributes:
        folder: Of the run.
        name: Short, and different from the names of other runs on the page.
        record: ``run.json``.
        lines: Lines of ``metrics.jsonl``, finite values only.
        probe: ``probe.json``.
        best: The encoder with the best online kNN accuracy.
        audit: ``audit.json``.
        figures: PNG files.
        skipped: Images that could not be read, with reasons.
        missing: What is not there, and how to make it.
    """

    folder: Path
    name: str
    record: RunRecord | None
    lines: Sequence[dict[str, float]]
    probe: ProbeRecord | None
    best: BestWeights | None
    audit: AuditRecord | None
    figures: RunFigures
    skipped: Sequence[str]
    missing: Sequence[Missing]

    @property
    def method(self) -> str:
        """Name of the method; empty if unknown."""
        return self.record.method if self.record else ""

    @property
    def step(self) -> int:
        """Step of the last line of metrics."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    @property
    def metrics(self) -> RunMetrics:
        """The metrics with their units and chance levels."""
        if self.record is None:
            return RunMetrics(self.lines)
        return RunMetrics.of(self.record, self.lines)

    @property
    def seconds(self) -> float | None:
        """Time of training, from the speed between the lines of metrics; None if unknown."""
        if self.record is None or not self.lines:
            return None
        images = self.record.data.batch_size * int(self.record.options.get("accumulate", 1))
        seconds, before = 0.0, 0.0
        for line in self.lines:
            if line.get("images_per_s", 0) <= 0:
                return None
            seconds += (line["step"] - before) * images / line["images_per_s"]
            before = line["step"]
        return seconds


class _Absent(Exception):
    """Something of a run is not there or cannot be read."""

    def __init__(self, what: str, command: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.command = command


def read_run_files(folder: Path, name: str, frames: int) -> RunFiles:
    """Read what there is of a run.

    Args:
        folder: Of the run.
        name: Of the run on the page.
        frames: Largest number of predictions over time, evenly spread.

    Raises:
        UsageError: The folder does not exist, or holds nothing of a run.
    """
    _check(folder)
    missing: list[Missing] = []

    def attempt(place: Place, read: Callable[[Path], T]) -> T | None:
        try:
            return read(folder)
        except _Absent as absent:
            missing.append(Missing(place, absent.what, absent.command))
            return None

    record = attempt("run", _record)
    lines = attempt("curves", _lines)
    probe, audit = attempt("probe", _probe), attempt("audit", _audit)
    figures = _figures(folder, record, frames, drawn=set(_PLOTS if probe else ()))
    missing += figures.missing
    return RunFiles(
        folder,
        name,
        record,
        lines or [],
        probe,
        attempt("run", _best),
        audit,
        figures,
        _skipped(folder),
        missing,
    )


def _check(folder: Path) -> None:
    if not folder.exists():
        raise UsageError(
            f"{folder} does not exist; name a run folder, 'ssltool pretrain' makes one"
        )
    names = [RUN_FILE, metrics.METRICS, WEIGHTS, PROBE_FILE, FIGURES]
    if any((folder / name).exists() for name in names):
        return
    inside = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}"))
    if inside:
        raise UsageError(
            f"{folder} is no run folder but has {len(inside)} in it; type {folder}/{inside[0]}, "
            "or several"
        )
    raise UsageError(
        f"{folder} holds nothing of a run (no {', '.join(names)}); name a folder that pretrain made"
    )


def _record(folder: Path) -> RunRecord:
    path, unknown = folder / RUN_FILE, "options, data and environment are unknown"
    if not path.is_file():
        raise _Absent(f"{RUN_FILE} is not there: {unknown}")
    try:
        return RunRecord.read(path)
    except CheckpointError as error:
        raise _Absent(f"{error}: {unknown}") from error


def _lines(folder: Path) -> list[dict[str, float]]:
    try:
        documents = metrics.read(folder)
    except CheckpointError as error:
        raise _Absent(f"{error}: no curves") from error
    lines = [
        {name: value for name, value in line.items() if _is_finite(value)} for line in documents
    ]
    if not lines:
        raise _Absent(
            f"{metrics.METRICS} has no lines yet: no curves; they come with the first "
            "--log-every steps"
        )
    return lines


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _best(folder: Path) -> BestWeights | None:
    try:
        return best_weights(folder)
    except WeightsError as error:
        raise _Absent(str(error)) from error


def _probe(folder: Path) -> ProbeRecord:
    command = f"ssltool probe --weights {_typed(folder)} --data labeled/"
    return _measured(ProbeRecord, folder / PROBE_FILE, "not probed yet", command)


def _audit(folder: Path) -> AuditRecord:
    command = f"ssltool audit --weights {_typed(folder)}"
    return _measured(AuditRecord, folder / AUDIT_FILE, "not audited yet", command)


def _measured(kind: type[RecordT], path: Path, absent: str, command: str) -> RecordT:
    """The record of a measurement of the run."""
    if not path.is_file():
        raise _Absent(absent, command)
    try:
        return kind.read(path)
    except CheckpointError as error:
        raise _Absent(str(error), command) from error


def _typed(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def _figures(
    run: Path, record: RunRecord | None, frames: int, drawn: Collection[str]
) -> RunFigures:
    """The figures of a run; those in ``drawn`` are charts of the page."""
    folder = run / FIGURES
    paths = {path.stem: path for path in sorted(folder.glob("*.png"))}
    steps = {step: path for stem, path in paths.items() if (step := _step_of(stem)) is not None}
    shown = _evenly(sorted(steps), frames)
    placed = {*_TITLES, *drawn}
    others = [p for stem, p in paths.items() if _step_of(stem) is None and stem not in placed]
    others = others[:_OTHERS_SHOWN]
    titled = {steps[step]: f"after step {step:,}" for step in shown}
    titled |= {path: path.stem for path in others}
    titled |= {path: _TITLES[stem] for stem, path in paths.items() if stem in _TITLES}
    loaded = {path: _frame(path, title) for path, title in titled.items()}
    present = {path: frame for path, frame in loaded.items() if frame}
    predictions = [present[steps[step]] for step in shown if steps[step] in present]
    missing = [
        Missing(_place(path.stem), f"figures/{path.name} is damaged")
        for path in loaded
        if path not in present
    ]
    to = _typed(folder / "predictions.png")
    if not predictions and folder / "predictions.png" not in present:
        command = f"ssltool visualize predictions --weights {_typed(run)} --to {to}"
        missing.append(Missing("predictions", "no predictions were drawn yet", command))
    if "task" not in paths:
        missing.append(Missing("task", "the task was not drawn", _task_command(run, record)))
    return RunFigures(
        present.get(folder / "task.png"),
        present.get(folder / "samples.png"),
        predictions,
        len(steps) - len(shown),
        present.get(folder / f"{_AUDIT_FIGURE}.png"),
        [present[path] for path in others if path in present],
        missing,
    )


def _task_command(run: Path, record: RunRecord | None) -> str:
    """What draws the task of a run; empty if its options are unknown."""
    try:
        return "" if record is None else _task_words(run / FIGURES / "task.png", record)
    except SslToolError:
        return ""


def _task_words(to: Path, record: RunRecord) -> str:
    task = find_method(record.method).Options.model_fields
    shaping = {"data", "image_size", "seed", *task}
    given = {name: value for name, value in record.options.items() if name in shaping}
    options = {n: v for n, v in given.items() if n not in task or v != task[n].default}
    words = RunConfig.validated(record.method, options).arguments()
    return shlex.join(["ssltool", "visualize", "task", record.method, *words, "--to", str(to)])


def _place(stem: str) -> Place:
    """The part of the page in which a figure is shown."""
    if stem == _AUDIT_FIGURE:
        return "audit"
    return "predictions" if stem.startswith("predictions") else "task"


def _step_of(stem: str) -> int | None:
    """Step at which predictions were drawn; None for other figures."""
    head, _, tail = stem.rpartition("-")
    return int(tail) if head == "predictions" and tail.isdecimal() else None


def _evenly(steps: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of the steps, evenly spread, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _frame(path: Path, title: str) -> Frame | None:
    """A figure that a browser can show; None if the file is damaged."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Frame(title, data)


def _skipped(folder: Path) -> list[str]:
    path = folder / SKIPPED
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    more = [f"and {len(lines) - _SKIPPED_SHOWN:,} more"] if len(lines) > _SKIPPED_SHOWN else []
    return [*lines[:_SKIPPED_SHOWN], *more]
