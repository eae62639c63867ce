"""Averaging the metrics of steps over all processes, and the check for a non-finite loss."""

from __future__ import annotations

import math
import time

import torch

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
        rows = [
            torch.stack([r.loss.float(), *(r.metrics[name].float() for name in names)])
            for r in steps
        ]
        sums = torch.tensor(
            [sum(r.images for r in steps), sum(r.wait for r in steps)], dtype=torch.float64
        )
        images, wait, *values = all_reduce_sum(
            torch.cat([sums, torch.stack(rows).cpu().double().flatten()])
        ).tolist()
        table = torch.tensor(values, dtype=torch.float64).view(len(steps), -1) / world_size()
        for report, loss in zip(steps, table[:, 0].tolist(), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"the loss became {loss} at step {report.step}")
        averages = dict(zip(["loss", *names], table.mean(dim=0).tolist(), strict=True))
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
