"""Which images a figure shows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.methods.base import Predictions

SAMPLE = 512  # images of the data that a task is scored on and drawn from
_FLAT = 4.0  # of 255: standard deviation below which an image shows nothing


def with_training_images(predictions: Predictions, source: Source, size: int) -> Predictions:
    """Add the training images that predictions refer to as columns.

    Args:
        predictions: Of a method.
        source: The training images; one that cannot be read becomes gray.
        size: Side in pixels at which they are read.
    """
    if not predictions.indices:
        return predictions
    columns = images_at(source, predictions.indices, size)
    return predictions._replace(images={**predictions.images, **columns})


def images_at(source: Source, indices: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Columns of images uint8 ``[B, 3, S, S]`` from their indices int64 ``[B]``, by title.

    Args:
        source: The images; one that cannot be read becomes gray.
        indices: Title -> indices.
        size: Side S in pixels at which they are read.
    """
    wanted = sorted({i for column in indices.values() for i in column.tolist()})
    with AllImages(source, size=size, batch_size=64, workers=0, indices=wanted) as batches:
        images = {
            index: image
            for batch in batches
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
        }
    gray = torch.full((3, size, size), 128, dtype=torch.uint8)
    return {
        title: torch.stack([images.get(index, gray) for index in column.tolist()])
        for title, column in indices.items()
    }


def spread_indices(images: Tensor, count: int) -> Tensor:
    """Indices int64 of at most ``count`` evenly spread images of uint8 ``[N, 3, S, S]``.

    Images without contrast are skipped while there are enough others.
    """
    contrasted = (images.float().std(dim=(1, 2, 3)) > _FLAT).nonzero().flatten()
    if len(contrasted) < count:
        contrasted = torch.arange(len(images), device=images.device)
    steps = torch.linspace(0, len(contrasted) - 1, min(count, len(contrasted))).long()
    return contrasted[steps.to(images.device)]
