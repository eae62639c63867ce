"""Images of a task, of what a network answers, of features, filters, permutation sets and training
curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.data.sample import sample
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.registry import open_source
from ssltool.errors import UsageError
from ssltool.methods.base import Loss, Method
from ssltool.plotting import charts as chart
from ssltool.plotting.records import Lines, Matrix, Points
from ssltool.plotting.sheet import save_sheet
from ssltool.plotting.units import said as said
from ssltool.runs.folder import Run
from ssltool.visualizing.sampling import spread, with_indexed_images
from ssltool.visualizing.sources import png

_SCORED = 512  # images that are scored for the metrics in the title
_BATCH = 64


def draw_predictions(
    folder: Path,
    path: Path,
    *,
    name: str | None = None,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    count: int = 6,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw what a run's network answers beside the truth, and score it on up to 512 images.

    Args:
        folder: A run folder.
        path: PNG to write; charts beside it may be SVG or PDF by its suffix.
        name: The method expected, to catch a mistaken folder.
        data: Images to ask about; the run's own if empty.
        image: Ask about these files instead.
        count: Rows drawn.
        seed: Seed of the puzzles.
    """
    sheet = png(path)
    run = Run.open(folder)
    if name is not None and name != run.config.method:
        raise UsageError(f"{folder} is a run of {run.config.method}, not of {name}")
    source = FileSource(image) if image else open_source(tuple(data) or run.config.run.data)
    images, index = sample(source, run.config.data.image_size, _SCORED)
    # Chance levels of a task that compares the images of a batch are those of the scored batches.
    method = run.load_method(batch_size=len(images) // _batches(images))
    if source.fingerprint() != run.record.source.fingerprint:
        index = (
            index + run.config.data.count
        )  # images that the run has not seen are numbered after its own
    scores = score(method, images, index, seed)
    chosen = spread(images, count)
    predictions = method.figures.draw_predictions(
        method, images[chosen], index[chosen], torch.Generator().manual_seed(seed)
    )
    if predictions.indices:
        predictions = with_indexed_images(
            predictions, open_source(run.config.run.data), run.config.data.image_size
        )
    numbers = ", ".join(
        said(key, value, method.chance) for key, value in scores.items() if key != "loss"
    )
    scored = "" if len(images) == len(source) else f"{len(images)} of "
    title = f"{run.config.method} on {scored}{source.description}: {numbers}"
    save_sheet(predictions.images, sheet, captions=predictions.captions, title=title)
    return {
        "path": str(sheet),
        "charts": _draw_charts(method, images, index, path, seed),
        "method": run.config.method,
        "images": len(images),
        **scores,
        "chance": method.chance,
    }


@torch.no_grad()
def _draw_charts(
    method: Method[Any, Any], images: Tensor, index: Tensor, path: Path, seed: int
) -> list[str]:
    """Draw the method's charts beside the sheet ``path``, as ``NAME-chart-name`` with its suffix;
    their paths.
    """
    drawn = []
    generator = torch.Generator().manual_seed(seed)
    for name, plot in method.figures.plots(method, images, index, generator).items():
        title = f"{name}, {len(images)} images"
        match plot:
            case Matrix():
                figure = chart.matrix(plot.values.numpy(), *plot[1:], title=title)
            case Lines():
                figure = chart.lines(*plot, title=title)
            case Points(x, y, colors, sizes, x_label, y_label):
                plane = [part.numpy() for part in (x, y, colors, sizes)]
                figure = chart.points(
                    plane[0], plane[1], plane[2], plane[3], x_label, y_label, title=title
                )
        place = path.with_name(f"{path.stem}-{name.replace(' ', '-')}{path.suffix}")
        drawn.append(str(chart.save_figure(figure, place)))
    return drawn


@torch.no_grad()
def score(method: Method[Any, Any], images: Tensor, index: Tensor, seed: int) -> dict[str, float]:
    """A trained method's loss and numbers over images, in evaluation mode (no guards, central
    geometry).
    """
    method.eval()
    generator = torch.Generator()
    totals: dict[str, float] = {}
    parts = _batches(images)
    for part, places in zip(
        torch.tensor_split(images, parts), torch.tensor_split(index, parts), strict=True
    ):
        loss: Loss = method(method.view(part, places, generator.manual_seed(seed)))
        for key, value in {"loss": loss.value, **loss.metrics}.items():
            totals[key] = totals.get(key, 0.0) + float(value) * len(part) / len(images)
    return totals


def _batches(images: Tensor) -> int:
    """Number of batches to score in, of equal size: a task may compare the images of a batch."""
    return -(-len(images) // _BATCH)
