"""Images of a run while it goes on: its data and its task at the start, its answers at each
checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.methods.base import Method
from ssltool.plotting.sheet import save_contact, save_sheet
from ssltool.visualizing.sampling import with_indexed_images

_SHOWN = 8  # images of the task and of the answers
_SAMPLES = 24  # images of the data
_WIDTH = 1400  # px, about a screen: rows stand side by side as far as they fit


class Place(NamedTuple):
    """Where and when a run is drawn.

    Attributes:
        folder: Of the images.
        step: Steps taken.
        seed: Of the task that is drawn; the generator is not the run's own.
        device: Of the method.
    """

    folder: Path
    step: int
    seed: int
    device: torch.device


def draw(method: Method[Any, Any], source: Source, size: int, place: Place) -> dict[str, Path]:
    """Draw the data and the task at step 0, afterwards the answers; the method is left in training
    mode.

    Args:
        method: Of the run.
        source: Its images.
        size: Side in pixels at which they are read: what training reads for the task, S for the
            answers.
        place: Where and when.

    Returns:
        What is drawn -> the PNG.
    """
    images, index = (part.to(place.device) for part in sample(source, size, _SHOWN))
    generator = torch.Generator().manual_seed(place.seed)
    if place.step:
        method.eval()
        predictions = method.figures.draw_predictions(method, images, index, generator)
        predictions = with_indexed_images(predictions, source, size)
        path = place.folder / f"predictions-{place.step:07d}.png"
        save_sheet(predictions.images, path, captions=predictions.captions, width=_WIDTH)
        method.train()
        return {"predictions": path}
    task, samples = place.folder / "task.png", place.folder / "samples.png"
    method.train()
    save_sheet(method.figures.draw_task(method, images, index, generator), task, width=_WIDTH)
    save_contact(sample(source, size, _SAMPLES)[0], samples)
    return {"task": task, "samples": samples}
