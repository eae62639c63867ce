"""``metrics.jsonl``: one line of averaged metrics every few steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ssltool.atomic import atomic_file, translated_os_errors
from ssltool.documents import DocumentError, parse_json, read_bytes
from ssltool.errors import CheckpointError

METRICS = "metrics.jsonl"
_LARGEST = 2**30  # bytes; ten million lines


def append(run: Path, line: dict[str, float]) -> None:
    """Add one line to the run's ``metrics.jsonl``.

    Raises:
        DiskFullError: No space left; a part of the line may be written, which `read` leaves out.
        CheckpointError: The file cannot be written to.
    """
    path = run / METRICS
    with translated_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def extend(run: Path, line: dict[str, float]) -> None:
    """Add values to the line of the same step; a kill at any moment leaves the old or the new one.

    Raises:
        DiskFullError, CheckpointError: The file cannot be written.
    """
    _write(run, [{**old, **line} if old["step"] == line["step"] else old for old in read(run)])


def _write(run: Path, lines: list[dict[str, float]]) -> None:
    with atomic_file(run / METRICS) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read(run: Path) -> list[dict[str, float]]:
    """All lines of a run's ``metrics.jsonl``; a last line cut off by a kill is left out.

    Raises:
        CheckpointError: The file cannot be read, or another line is damaged.
    """
    path = run / METRICS
    if not path.is_file():
        return []
    lines: list[dict[str, float]] = []
    try:
        *whole, last = read_bytes(path, _LARGEST).split(b"\n")
        for number, text in enumerate(whole, 1):
            lines.append(_line(text, f"line {number}"))
    except DocumentError as error:
        raise CheckpointError(
            f"{path} is damaged, {error}; delete that line, or the file"
        ) from error
    try:
        return [*lines, _line(last, "the last line")]
    except DocumentError:
        return lines


def _line(text: bytes, place: str) -> dict[str, float]:
    """One line: ``step`` and further numbers, of which some may not be finite."""
    try:
        document = parse_json(text, finite=False)
    except DocumentError as error:
        raise DocumentError(f"{place}: {error}") from error
    if not isinstance(document, dict) or not all(map(_is_number, document.values())):
        raise DocumentError(f"{place} is no table of numbers")
    step = document.get("step")
    if not isinstance(step, int | float) or not 0 <= step < math.inf:
        raise DocumentError(f"{place} has no step")
    return document


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def trim(run: Path, step: int) -> None:
    """Drop the lines after ``step``: steps that a resumed run takes again. A kill at any moment
    leaves the old file or the new one.
    """
    _write(run, [line for line in read(run) if line["step"] <= step])
