"""Read an evenly spaced sample of a source."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source


def sample(source: Source, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Read up to ``count`` evenly spaced images; unreadable ones are left out.

    Args:
        source: The images.
        size: Side S of the squares in pixels.
        count: Most images to read.

    Returns:
        Images uint8 ``[n, 3, S, S]`` and their indices in the source, int64 ``[n]``; n <= count.
    """
    indices = torch.linspace(0, len(source) - 1, min(count, len(source))).long().tolist()
    with AllImages(source, size=size, batch_size=count, workers=0, indices=indices) as images:
        batch = next(iter(images))
    return batch.images, batch.indices
