"""Which images a figure shows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.methods.base import Predictions
from ssltool.plotting.sheet import Column, Mark, Sheet, right_wrong

SAMPLE = 512  # images of the data that a task is scored on and drawn from
_FLAT = 4.0  # of 255: standard deviation below which an image shows nothing


RIGHT, WRONG = right_wrong("same class as the query", "another class")


def with_training_images(
    predictions: Predictions, source: Source, size: int, index: Tensor
) -> Sheet:
    """The sheet of predictions with the training images that they refer to as columns.

    With class folders, their classes are written below the images, and frames say whether they are
    the query's.

    Args:
        predictions: Of a method.
        source: The training images; one that cannot be read becomes gray.
        size: Side in pixels at which they are read.
        index: int64 ``[B]``, of the images predicted on; one past the end is of no known class.
    """
    sheet, nearest = predictions
    if nearest is None:
        return sheet
    columns = nearest.indices.unbind(dim=1)
    wanted = {str(rank): column for rank, column in enumerate(columns, 1)}
    images = images_at(source, wanted, size)
    queries = [class_of(source, i) for i in index.tolist()]
    (name, query), *others = sheet.columns.items()
    drawn = {name: query._replace(labels=[q or "" for q in queries]), **dict(others)}
    similarity = nearest.similarity.unbind(dim=1)
    for rank, column, values in zip(wanted, columns, similarity, strict=True):
        classes = [class_of(source, i) for i in column.tolist()]
        drawn[f"nearest {rank}"] = Column(
            images[rank],
            [same_class(*pair) for pair in zip(queries, classes, strict=True)],
            [named(*pair) for pair in zip(classes, values.tolist(), strict=True)],
        )
    return sheet._replace(columns=drawn)


def class_of(source: Source, index: int) -> str | None:
    """Name of an image's class; None without one, or with fewer than two classes."""
    label = source.label(index) if index < len(source) and len(source.classes) > 1 else None
    return None if label is None else source.classes[label]


def same_class(query: str | None, neighbor: str | None) -> list[Mark]:
    """The frame of a neighbor; none where a class is unknown."""
    if query is None or neighbor is None:
        return []
    return [Mark(RIGHT if query == neighbor else WRONG)]


def named(name: str | None, similarity: float) -> str:
    """The label of a neighbor: its class, if known, and its similarity."""
    return f"{similarity:.2f}" if name is None else f"{name}\n{similarity:.2f}"


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
    gray = torch.full((source.channels, size, size), 128, dtype=torch.uint8)
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
