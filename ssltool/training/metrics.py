"""Averaging the metrics of steps over all processes, and the check for a non-finite loss."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.distributed.collectives import all_reduce_sum, world_size
from ssltool.errors import NonFiniteLossError
from ssltool.training.loop import StepReport


class Meter:
    """Collects the steps since the last line of metrics and averages them into one.

    Tensors are kept as they are and read at the end of a line only, so a GPU is not stopped in
    between.
    """

    def __init__(self) -> None:
        self._steps: list[StepReport] = []
        self._start = time.perf_counter()

    def add(self, report: StepReport) -> None:
        """Add one step."""
        self._steps.append(report)

    def line(self) -> dict[str, float]:
        """Average of the steps since the last call, over all processes, and forget them.

        Returns:
            ``step, epoch, loss``, the method's metrics, ``grad_norm, lr``, ``images_per_s`` of all
            processes together, ``data_wait`` (share of the time, 0..1).

        Raises:
            NonFiniteLossError: A loss since the last line is NaN or infinite, in any process;
                raised in all of them, naming the first such step.
        """
        steps, self._steps = self._steps, []
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        last, names = steps[-1], list(steps[-1].metrics)
        rows = [_row(report, names) for report in steps]
        sums = torch.tensor(
            [sum(r.images for r in steps), sum(r.wait for r in steps)], dtype=torch.float64
        )
        images, wait, *values = all_reduce_sum(
            torch.cat([sums, torch.stack(rows).cpu().double().flatten()])
        ).tolist()
        sums = torch.tensor(values, dtype=torch.float64).view(len(steps), -1)
        for report, loss in zip(steps, sums[:, 0].tolist(), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"the loss became {loss} at step {report.step}")
        # A step counts as much as its images do: an empty one, all of gray images say, not at all.
        weights = sums[:, -1]
        losses = sums[:, 0] / world_size() * weights
        table = torch.cat([losses[:, None], sums[:, 1:-1]], dim=1)
        means = table.sum(dim=0) / weights.sum().clamp_min(1)
        averages = dict(zip(["loss", *names], means.tolist(), strict=True))
        self._start = time.perf_counter()
        return {
            "step": last.step,
            "epoch": last.epoch,
            **averages,
            "grad_norm": float(last.grad_norm),
            "lr": last.lr,
            "images_per_s": images / elapsed,
            "data_wait": min(1.0, wait / world_size() / elapsed),
        }


def _row(report: StepReport, names: Sequence[str]) -> Tensor:
    """The loss, whose mean over the processes is that of all images; the metrics times the weight
    of this process's images, and that weight.
    """
    loss = report.loss.float()
    weight = torch.ones_like(loss) if report.counted is None else report.counted.to(loss)
    return torch.stack([loss, *(report.metrics[name].float() * weight for name in names), weight])
