"""Read an evenly spread sample of a source."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source


def sample(source: Source, size: int, count: int) -> tuple[Tensor, Tensor]:
    """The first readable of ``count`` evenly spread images: uint8 ``[n, 3, S, S]``, int64 ``[n]``,
    n <= count.
    """
    places = torch.linspace(0, len(source) - 1, min(count, len(source))).long().tolist()
    with AllImages(source, size=size, batch_size=count, workers=0, indices=places) as images:
        batch = next(iter(images))
    return batch.images, batch.indices
