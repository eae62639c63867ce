"""``metrics.jsonl``: one line of averaged metrics every few steps."""

from __future__ import annotations

import json
from pathlib import Path

METRICS = "metrics.jsonl"


def append(run: Path, line: dict[str, float]) -> None:
    """Add one line to the run's ``metrics.jsonl``."""
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(run: Path) -> list[dict[str, float]]:
    """All lines of a run's ``metrics.jsonl``; a last line cut off by a kill is left out."""
    path, lines = run / METRICS, []
    texts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for text in texts:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def trim(run: Path, step: int) -> None:
    """Drop the lines after ``step``: steps that a resumed run takes again."""
    kept = [line for line in read(run) if line["step"] <= step]
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
