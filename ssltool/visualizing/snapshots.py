"""Figures of a run over time: data and task at its start, predictions at each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.methods.base import Method
from ssltool.plotting.channels import legend
from ssltool.plotting.sheet_layout import save_contact, save_sheet
from ssltool.visualizing.sampling import with_training_images

_SHOWN = 4  # images of the task and of the predictions
_SAMPLES = 24  # images of the data


def draw_start(
    method: Method[Any, Any], source: Source, size: int, folder: Path, *, seed: int
) -> dict[str, Path]:
    """Draw some of the data, and the task as it is given to the network.

    Args:
        method: Of the run; left in training mode.
        source: The training images.
        size: Side in pixels at which training reads them.
        folder: Where PNG files are written.
        seed: Seed of the drawn task; the generator is not the run's own.

    Returns:
        Name of the figure -> file.
    """
    device = next(method.parameters()).device
    images, index = (part.to(device) for part in sample(source, size, _SHOWN))
    task, samples = folder / "task.png", folder / "samples.png"
    method.train()
    generator = torch.Generator().manual_seed(seed)
    sheet = method.figures.draw_task(method, images, index, generator)
    save_sheet(sheet._replace(note=f"{sheet.note} {legend(source.channels)}".strip()), task)
    shown = sample(source, size, _SAMPLES)[0]
    title = f"{len(shown)} of {len(source):,} training images, read at {size} px"
    save_contact(shown, samples, title)
    return {"task": task, "samples": samples}


def draw_snapshot(
    method: Method[Any, Any], source: Source, size: int, folder: Path, *, step: int, seed: int
) -> dict[str, Path]:
    """Draw predictions beside the ground truth.

    Args:
        method: Of the run; left in training mode.
        source: The training images.
        size: Side S in pixels of the images of the task.
        folder: Where PNG files are written.
        step: Optimizer steps taken.
        seed: Seed of the drawn task; the generator is not the run's own.

    Returns:
        Name of the figure -> file.
    """
    device = next(method.parameters()).device
    images, index = (part.to(device) for part in sample(source, size, _SHOWN))
    generator = torch.Generator().manual_seed(seed)
    method.eval()
    try:
        predictions = method.figures.draw_predictions(method, images, index, generator)
    finally:
        method.train()
    sheet = with_training_images(predictions, source, size, index)
    note = f"{sheet.note} Training images, after {step:,} steps. {legend(source.channels)}".strip()
    path = folder / f"predictions-{step:07d}.png"
    save_sheet(sheet._replace(note=note), path)
    return {"predictions": path}
