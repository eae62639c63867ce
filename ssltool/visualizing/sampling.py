"""Pictures of a run while it goes on: its data and its task at the start, its answers at each checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.data.loader import AllPictures
from ssltool.data.sources.base import Source
from ssltool.methods.base import Answers

_PLAIN = 4.0  # of 255: the contrast, as a deviation, below which a picture shows nothing


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
