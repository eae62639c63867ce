"""Pictures of a run while it goes on: its data and its task at the start, its answers at each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssltool.data.batches import AllPictures
from ssltool.data.source import Source
from ssltool.methods.base import Answers, Method
from ssltool.viz.sheet import save_contact, save_sheet

_SHOWN = 8  # pictures of the task and of the answers
_SAMPLES = 24  # pictures of the data
_PLAIN = 4.0  # of 255: the contrast, as a deviation, below which a picture shows nothing
_WIDTH = 1400  # px, about a screen: rows stand side by side as far as they fit


class Place(NamedTuple):
    """Where and when a run is drawn.

    Attributes:
        folder: Of the pictures.
        step: Steps taken.
        seed: Of the task that is drawn; the generator is not the run's own.
        device: Of the method.
    """

    folder: Path
    step: int
    seed: int
    device: torch.device


def draw(method: Method[Any, Any], source: Source, size: int, place: Place) -> dict[str, Path]:
    """Draw the data and the task at step 0, afterwards the answers; the method is left in training mode.

    Args:
        method: Of the run.
        source: Its pictures.
        size: Side in pixels at which they are read: what training reads for the task, S for the answers.
        place: Where and when.

    Returns:
        What is drawn -> the PNG.
    """
    images, index = (part.to(place.device) for part in sample(source, size, _SHOWN))
    generator = torch.Generator().manual_seed(place.seed)
    if place.step:
        answers = with_places(method.eval().answers(images, index, generator), source, size)
        path = place.folder / f"answers-{place.step:07d}.png"
        save_sheet(answers.pictures, path, captions=answers.captions, width=_WIDTH)
        method.train()
        return {"answers": path}
    task, samples = place.folder / "task.png", place.folder / "samples.png"
    save_sheet(method.train().pictures(images, index, generator), task, width=_WIDTH)
    save_contact(sample(source, size, _SAMPLES)[0], samples)
    return {"task": task, "samples": samples}


def sample(source: Source, size: int, count: int) -> tuple[Tensor, Tensor]:
    """The first readable of ``count`` evenly spread pictures: uint8 ``[n, 3, S, S]``, int64 ``[n]``, n <= count."""
    places = torch.linspace(0, len(source) - 1, min(count, len(source))).long().tolist()
    with AllPictures(source, size=size, batch_size=count, workers=0, indices=places) as pictures:
        batch = next(iter(pictures))
    return batch.images, batch.indices


def with_places(answers: Answers, source: Source, size: int) -> Answers:
    """Add the pictures of the run's data that answers point to as columns; one that cannot be read is gray."""
    if not answers.places:
        return answers
    wanted = sorted({place for places in answers.places.values() for place in places.tolist()})
    with AllPictures(source, size=size, batch_size=64, workers=0, indices=wanted) as pictures:
        found = {
            place: image
            for batch in pictures
            for place, image in zip(batch.indices.tolist(), batch.images, strict=True)
        }
    gray = torch.full((3, size, size), 128, dtype=torch.uint8)
    columns = {
        title: torch.stack([found.get(place, gray) for place in places.tolist()])
        for title, places in answers.places.items()
    }
    return answers._replace(pictures={**answers.pictures, **columns})


def spread(images: Tensor, count: int) -> Tensor:
    """Places int64 of at most ``count`` evenly spread pictures of uint8 ``[N, 3, S, S]``.

    Pictures without any contrast, on which no task can be seen, are passed over while there are enough others.
    """
    worthy = (images.float().std(dim=(1, 2, 3)) > _PLAIN).nonzero().flatten()
    if len(worthy) < count:
        worthy = torch.arange(len(images))
    return worthy[torch.linspace(0, len(worthy) - 1, min(count, len(worthy))).long()]
