"""Test images that are, exactly or nearly, training images.

Exact duplicates are recognized by their pixels as they were read, see `Features.overlap`; near ones
by their thumbnails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ssltool.encoders.transform import resize
from ssltool.errors import DataError
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.extraction import Features
from ssltool.runs.probe_record import FeatureSource

CORRELATION = 0.98
"""Correlation of two thumbnails from which images are near duplicates: copies that were resized,
compressed or brightened have more."""

_SIDE = 16  # px of a thumbnail
_READ = 64  # px at which files are read for it
_FLAT = 2 / 255  # deviation below which a thumbnail has no content to compare
_ROWS = 2048  # test images compared at a time


def overlap(data: LabeledImages, features: Mapping[FeatureSource, Sequence[Features]]) -> int:
    """Number of test images that are the same as a training image.

    Raises:
        DataError: All of them are.
    """
    first = next(iter(features.values()), None)
    count = first[0].overlap if first else 0
    if count and count == data.count("test"):
        raise DataError(
            f"all {count:,} test images are the same as training images: the accuracy on images "
            "that were trained on says nothing; name other --test-data"
        )
    return count


def near_duplicates(data: LabeledImages) -> list[tuple[str, str]]:
    """Names of the test images that nearly are a training image, and of that image.

    Exact duplicates are among them. Images without content, such as of one color, are not.
    """
    test, test_index = _thumbnails(data, "test")
    train, train_index = _thumbnails(data, "train")
    if not len(test) or not len(train):
        return []
    pairs = []
    for rows, index in zip(torch.split(test, _ROWS), torch.split(test_index, _ROWS), strict=True):
        correlation, nearest = (rows @ train.T).max(dim=1)
        for i in (correlation >= CORRELATION).nonzero()[:, 0].tolist():
            other = int(train_index[nearest[i]])
            pairs.append((data.name("test", int(index[i])), data.name("train", other)))
    return pairs


def _thumbnails(data: LabeledImages, split: Split) -> tuple[Tensor, Tensor]:
    """Centered thumbnails of unit length, float32 ``[n, D]``, and their indices in the split."""
    vectors, indices = [], []
    for images, index in data.batches(split, _READ):
        thumbnails = resize(images, _SIDE).flatten(1).cpu()
        centered = thumbnails - thumbnails.mean(dim=1, keepdim=True)
        content = centered.std(dim=1) > _FLAT
        vectors.append(torch.nn.functional.normalize(centered[content], dim=1))
        indices.append(index[content])
    if not vectors:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    return torch.cat(vectors), torch.cat(indices)
