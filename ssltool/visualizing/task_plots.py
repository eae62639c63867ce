"""Plots that a method draws of its task and of its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.methods.base import Method
from ssltool.plotting.figures import save_plot


@torch.no_grad()
def save_task_plots(
    method: Method[Any, Any], images: Tensor, index: Tensor, path: Path, seed: int
) -> tuple[Path, ...]:
    """Save a method's plots beside an image sheet, as ``SHEET-name`` with the suffix of ``path``.

    Args:
        method: In training mode for plots of the task, in evaluation mode for the predictions.
        images: uint8 ``[N, 3, S, S]``, on the method's device.
        index: int64 ``[N]``, index of each image in the data.
        path: Of the sheet.
        seed: Seed of the task.

    Returns:
        The files.
    """
    plots = method.figures.plots(method, images, index, torch.Generator().manual_seed(seed))
    return tuple(
        save_plot(
            plot,
            path.with_name(f"{path.stem}-{name.replace(' ', '-')}{path.suffix}"),
            f"{name}, {len(images)} images",
        )
        for name, plot in plots.items()
    )
