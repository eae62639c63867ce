"""Reading of run folders that may be unfinished, damaged or incomplete."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from ssltool.errors import CheckpointError, SslToolError, UsageError
from ssltool.runs import metrics
from ssltool.runs.folder import FIGURES, SKIPPED, WEIGHTS
from ssltool.runs.probe_record import PROBE_FILE, ProbeRecord
from ssltool.runs.records import RUN_FILE, RunRecord
from ssltool.visualizing.curves import RunMetrics
from ssltool.visualizing.report.parts import Frame

T = TypeVar("T")

_OTHERS_SHOWN = 12  # further figures shown
_SKIPPED_SHOWN = 200  # lines of skipped.txt shown
_TITLES = {"task": "The task as it is given to the network", "samples": "Some of the images"}


class RunFigures(NamedTuple):
    """The figures of a run.

    Attributes:
        task: The pretext task, if it was drawn.
        samples: Some of the data, if it was drawn.
        predictions: Over the steps, evenly spread.
        left_out: Number of predictions that are not shown, to keep the page small.
        others: Further figures.
        missing: Sentences on what is not there.
    """

    task: Frame | None
    samples: Frame | None
    predictions: Sequence[Frame]
    left_out: int
    others: Sequence[Frame]
    missing: Sequence[str]


class RunFiles(NamedTuple):
    """What a run folder holds; whatever cannot be read is empty and named in ``missing``.

    Attributes:
        folder: Of the run.
        name: Short, and different from the names of other runs on the page.
        record: ``run.json``.
        lines: Lines of ``metrics.jsonl``, finite values only.
        probe: ``probe.json``.
        figures: PNG files.
        skipped: Images that could not be read, with reasons.
        missing: Sentences on what is not there, and how to get it.
    """

    folder: Path
    name: str
    record: RunRecord | None
    lines: Sequence[dict[str, float]]
    probe: ProbeRecord | None
    figures: RunFigures
    skipped: Sequence[str]
    missing: Sequence[str]

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
    missing: list[str] = []

    def attempt(read: Callable[[Path], T]) -> T | None:
        try:
            return read(folder)
        except SslToolError as error:
            missing.append(str(error))
            return None

    record, lines, probe = attempt(_record), attempt(_lines), attempt(_probe)
    figures = _figures(folder / FIGURES, frames)
    missing += figures.missing
    return RunFiles(folder, name, record, lines or [], probe, figures, _skipped(folder), missing)


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
        raise CheckpointError(f"{RUN_FILE} is not there: {unknown}")
    try:
        return RunRecord.read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: {unknown}") from error


def _lines(folder: Path) -> list[dict[str, float]]:
    try:
        documents = metrics.read(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: no curves") from error
    lines = [
        {name: value for name, value in line.items() if _is_finite(value)} for line in documents
    ]
    if not lines:
        raise CheckpointError(
            f"{metrics.METRICS} has no lines yet: no curves; they come with the first "
            "--log-every steps"
        )
    return lines


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _probe(folder: Path) -> ProbeRecord:
    path = folder / PROBE_FILE
    if not path.is_file():
        raise CheckpointError(
            "no probe was run: 'ssltool probe --weights RUN --data labeled/' measures what the "
            "encoder learned"
        )
    try:
        return ProbeRecord.read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: run the probe again") from error


def _figures(folder: Path, frames: int) -> RunFigures:
    paths = sorted(folder.glob("*.png"))
    steps = {step: path for path in paths if (step := _step_of(path)) is not None}
    shown = _evenly(sorted(steps), frames)
    titled = [(steps[step], f"after step {step:,}") for step in shown]
    others = [path for path in paths if _step_of(path) is None and path.stem not in _TITLES]
    titled += [(path, path.stem) for path in others[:_OTHERS_SHOWN]]
    titled += [(path, _TITLES[path.stem]) for path in paths if path.stem in _TITLES]
    loaded = {path: _frame(path, title) for path, title in titled}
    missing = [f"figures/{path.name} is damaged" for path, frame in loaded.items() if not frame]
    present = {path: frame for path, frame in loaded.items() if frame}
    predictions = [present[steps[step]] for step in shown if steps[step] in present]
    if not paths:
        missing.append("figures/ is empty or not there: pretrain draws the task and predictions")
    elif not predictions:
        missing.append("there are no predictions yet: they come with the first checkpoint")
    return RunFigures(
        present.get(folder / "task.png"),
        present.get(folder / "samples.png"),
        predictions,
        len(steps) - len(shown),
        [present[path] for path in others if path in present],
        missing,
    )


def _step_of(path: Path) -> int | None:
    """Step at which predictions were drawn; None for other figures."""
    head, _, tail = path.stem.rpartition("-")
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
