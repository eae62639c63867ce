"""Figure of a run's predictions beside the ground truth, with its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.registry import open_source
from ssltool.device import choose_device
from ssltool.errors import UsageError
from ssltool.methods.base import Loss, Method
from ssltool.options import DeviceName
from ssltool.plotting.sheet import save_sheet
from ssltool.plotting.units import Unit, describe
from ssltool.runs.folder import Run
from ssltool.visualizing.loading import sheet_path
from ssltool.visualizing.results import FigureResult
from ssltool.visualizing.sampling import SAMPLE, spread_indices, with_training_images
from ssltool.visualizing.task_plots import save_task_plots

_BATCH = 64


class Score(BaseModel):
    """A metric over the scored images.

    Attributes:
        name: Of the metric.
        value: Mean over the images.
        unit: How the value is written.
        chance: Chance level; None if there is none.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    unit: Unit
    chance: float | None

    def __str__(self) -> str:
        return describe(self.name, self.value, self.unit, self.chance)


class PredictionsFigure(FigureResult):
    """What `draw_predictions` drew and measured.

    Attributes:
        method: Name of the method.
        images: Number of images scored.
        scores: Metrics, the loss first.
    """

    method: str
    images: int
    scores: tuple[Score, ...]

    def summary(self) -> list[str]:
        """Each metric next to its chance level."""
        return [str(score) for score in self.scores]


def draw_predictions(
    weights: Path,
    path: Path,
    *,
    method: str | None = None,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    count: int = 6,
    seed: int = 0,
    device: DeviceName = "auto",
) -> PredictionsFigure:
    """Draw a run's predictions beside the ground truth, and score it on up to 512 images.

    Args:
        weights: Run folder, or the weights file in it.
        path: PNG to write; plots beside it may be SVG or PDF by its suffix.
        method: The method expected, to catch a mistaken folder.
        data: Images to predict on; the run's own if empty.
        image: Predict on these files instead.
        count: Images drawn.
        seed: Seed of the task.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: There is no such run, or it is of another method.
        CheckpointError: The run has no checkpoint yet, or it is damaged.
    """
    sheet, where = sheet_path(path), choose_device(device)
    run = Run.open(weights)
    name, size = run.config.method, run.config.data.image_size
    if method is not None and method != name:
        raise UsageError(f"{weights} is a run of {name}, not of {method}")
    if image:
        source: Source = FileSource(image)
    else:
        source = open_source(data) if data else run.open_images("name images with --data")
    images, index = (part.to(where) for part in sample(source, size, SAMPLE))
    by_content = run.config.run.content_hash
    if source.fingerprint(content=by_content) != run.record.source.fingerprint:
        # Images unseen in training are numbered after those seen.
        index = index + run.config.data.count
    # Chance levels of a task that compares the images of a batch are those of the scored batches.
    trained = run.load_method(batch_size=len(images) // _batches(images)).to(where)
    scores = score(trained, images, index, seed)
    chosen = spread_indices(images, count)
    generator = torch.Generator().manual_seed(seed)
    predictions = trained.figures.draw_predictions(
        trained, images[chosen], index[chosen], generator
    )
    if predictions.indices:
        predictions = with_training_images(predictions, run.open_images("restore them"), size)
    metrics = ", ".join(str(metric) for metric in scores if metric.name != "loss")
    part = "" if len(images) == len(source) else f"{len(images)} of "
    title = f"{name} on {part}{source.description}: {metrics}"
    save_sheet(predictions.images, sheet, captions=predictions.captions, title=title)
    plots = save_task_plots(trained, images, index, path, seed)
    return PredictionsFigure(
        path=sheet, plots=plots, method=name, images=len(images), scores=scores
    )


@torch.no_grad()
def score(method: Method[Any, Any], images: Tensor, index: Tensor, seed: int) -> tuple[Score, ...]:
    """Loss and metrics of a trained method over images, in evaluation mode.

    Args:
        method: Of the run.
        images: uint8 ``[N, 3, S, S]``.
        index: int64 ``[N]``.
        seed: Seed of the task.
    """
    method.eval()
    generator = torch.Generator()
    totals: dict[str, float] = {}
    parts = _batches(images)
    for batch, which in zip(images.tensor_split(parts), index.tensor_split(parts), strict=True):
        loss: Loss = method(method.view(batch, which, generator.manual_seed(seed)))
        for name, value in {"loss": loss.value, **loss.metrics}.items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(batch) / len(images)
    return tuple(
        Score(name=metric.name, value=totals[metric.name], unit=metric.unit, chance=metric.chance)
        for metric in method.metrics
        if metric.name in totals
    )


def _batches(images: Tensor) -> int:
    """Number of batches to score in, of equal size: a task may compare the images of a batch."""
    return -(-len(images) // _BATCH)
