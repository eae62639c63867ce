"""From step reports to lines: averages between lines, ``metrics.jsonl``, and the guard against a broken loss."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from ssltool.errors import NonFiniteLossError
from ssltool.training.loop import StepReport

METRICS = "metrics.jsonl"


class Meter:
    """Gathers the steps since the last line and averages them into one.

    Tensors are kept as they are and read at the end of a line only, so a GPU is not stopped in between.
    """

    def __init__(self) -> None:
        self._steps: list[StepReport] = []
        self._start = time.perf_counter()

    def add(self, report: StepReport) -> None:
        """Add one step; its view is let go of."""
        self._steps.append(report._replace(view=None))

    def line(self) -> dict[str, float]:
        """Average of the steps since the last call, and forget them.

        Returns:
            ``step, epoch, loss``, the method's numbers, ``grad_norm, lr, images_per_s, data_wait`` (share of the
            time, 0..1).

        Raises:
            NonFiniteLossError: A loss since the last line is NaN or infinite; names the first such step.
        """
        steps, self._steps = self._steps, []
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        losses = [float(report.loss) for report in steps]
        for report, loss in zip(steps, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"the loss became {loss} at step {report.step}")
        last = steps[-1]
        averages = {name: sum(float(report.numbers[name]) for report in steps) / len(steps) for name in last.numbers}
        self._start = time.perf_counter()
        return {
            "step": last.step,
            "epoch": last.epoch,
            "loss": sum(losses) / len(losses),
            **averages,
            "grad_norm": float(last.grad_norm),
            "lr": last.lr,
            "images_per_s": sum(report.pictures for report in steps) / elapsed,
            "data_wait": min(1.0, sum(report.wait for report in steps) / elapsed),
        }


def append(run: Path, line: dict[str, float]) -> None:
    """Add one line to the run's ``metrics.jsonl``."""
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(run: Path) -> list[dict[str, float]]:
    """All lines of a run's ``metrics.jsonl``; a last line cut off by a kill is left out."""
    lines = []
    for text in (run / METRICS).read_text(encoding="utf-8").splitlines() if (run / METRICS).is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def trim(run: Path, step: int) -> None:
    """Drop the lines after ``step``: steps that a resumed run takes again."""
    kept = [line for line in read(run) if line["step"] <= step]
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
