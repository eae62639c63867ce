"""Figure of a run's predictions beside the ground truth, with its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ssltool.data.sources.base import Source
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.registry import open_source
from ssltool.device import choose_device
from ssltool.methods.auditing import batches
from ssltool.methods.base import Loss, Method
from ssltool.options import DeviceName
from ssltool.plotting.figures import require_format
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.plotting.units import Unit, describe
from ssltool.runs.evaluation import Evaluation
from ssltool.runs.folder import Run
from ssltool.visualizing.results import FigureResult
from ssltool.visualizing.sampling import SAMPLE, spread_indices, with_training_images
from ssltool.visualizing.task_plots import save_task_plots


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
        images: Number of images scored, less those that the method leaves out.
        scores: Metrics, the loss first; empty if it leaves out all of them.
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
        path: PNG, SVG or PDF to write; plots beside it have the same suffix.
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
    require_format(path)
    where = choose_device(device)
    as_they_are = Run.open(weights).config.run.as_they_are
    source: Source | None = None
    if image:
        source = FileSource(image, as_they_are=as_they_are)
    elif data:
        source = open_source(data, arrays=as_they_are)
    opened = Evaluation.open(weights, source, SAMPLE, where, method)
    trained, images, index = opened.method, opened.images, opened.index
    scores, counted = score(trained, images, index, seed)
    chosen = spread_indices(images, count)
    generator = torch.Generator().manual_seed(seed)
    predictions = trained.figures.draw_predictions(
        trained, images[chosen], index[chosen], generator
    )
    sheet = predictions.sheet
    if predictions.nearest is not None:
        training_images = opened.run.open_images("restore them")
        size = opened.run.config.data.image_size
        sheet = with_training_images(predictions, training_images, size, index[chosen])
    some = "" if counted == len(images) else f", of which {counted} count"
    rate = f" Over {opened.data}{some}: {headline(scores)}." if scores else ""
    save_sheet(sheet._replace(note=f"{sheet.note}{rate}"), path)
    plots = save_task_plots(trained, images, index, path, seed)
    return PredictionsFigure(
        path=path,
        plots=plots,
        method=opened.run.config.method,
        images=counted,
        scores=scores,
    )


def headline(scores: Sequence[Score]) -> str:
    """The accuracy in words; else the first metric with a chance level, else the loss."""
    named = [score for score in scores if score.name == "accuracy"]
    others = [score for score in scores if score.name != "loss" and score.chance is not None]
    return str((named + others + list(scores))[0])


@torch.no_grad()
def score(
    method: Method[Any, Any], images: Tensor, index: Tensor, seed: int
) -> tuple[tuple[Score, ...], int]:
    """Loss and metrics of a trained method over the images that it counts, and their number, in
    evaluation mode.

    Args:
        method: Of the run.
        images: uint8 ``[N, 3, S, S]``.
        index: int64 ``[N]``.
        seed: Seed of the task.
    """
    method.eval()
    generator = torch.Generator()
    totals: dict[str, float] = {}
    counted = 0
    parts = batches(images)
    for batch, which in zip(images.tensor_split(parts), index.tensor_split(parts), strict=True):
        loss: Loss = method(method.view(batch, which, generator.manual_seed(seed)))
        weight = len(batch) if loss.counted is None else int(loss.counted)
        counted += weight
        for name, value in {"loss": loss.value, **loss.metrics}.items():
            totals[name] = totals.get(name, 0.0) + float(value) * weight
    scores = tuple(
        Score(
            name=metric.name,
            value=totals[metric.name] / counted,
            unit=metric.unit,
            chance=metric.chance,
        )
        for metric in method.metrics
        if counted and metric.name in totals
    )
    return scores, counted
