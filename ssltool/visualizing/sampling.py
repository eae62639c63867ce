"""Images of a run while it goes on: its data and its task at the start, its answers at each
checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.methods.base import Predictions

_PLAIN = 4.0  # of 255: the contrast, as a deviation, below which an image shows nothing


def with_indexed_images(predictions: Predictions, source: Source, size: int) -> Predictions:
    """Add the images of the run's data that answers point to as columns; one that cannot be read is
    gray.
    """
    if not predictions.indices:
        return predictions
    wanted = sorted({place for places in predictions.indices.values() for place in places.tolist()})
    with AllImages(source, size=size, batch_size=64, workers=0, indices=wanted) as images:
        found = {
            place: image
            for batch in images
            for place, image in zip(batch.indices.tolist(), batch.images, strict=True)
        }
    gray = torch.full((3, size, size), 128, dtype=torch.uint8)
    columns = {
        title: torch.stack([found.get(place, gray) for place in places.tolist()])
        for title, places in predictions.indices.items()
    }
    return predictions._replace(images={**predictions.images, **columns})


def spread(images: Tensor, count: int) -> Tensor:
    """Places int64 of at most ``count`` evenly spread images of uint8 ``[N, 3, S, S]``.

    Images without any contrast, on which no task can be seen, are passed over while there are
    enough others.
    """
    worthy = (images.float().std(dim=(1, 2, 3)) > _PLAIN).nonzero().flatten()
    if len(worthy) < count:
        worthy = torch.arange(len(images))
    return worthy[torch.linspace(0, len(worthy) - 1, min(count, len(worthy))).long()]
