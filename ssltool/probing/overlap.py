"""Test images that are, exactly or nearly, training images.

Exact duplicates are recognized by their pixels as they were read, near ones by their thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.encoders.transform import resize
from ssltool.errors import DataError
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.extraction import Features
from ssltool.probing.store import StoredFeatures
from ssltool.runs.probe_record import FeatureSource

CORRELATION = 0.98
"""Correlation of two thumbnails from which images are near duplicates: copies that were resized,
compressed or brightened have more."""

_SIDE = 16  # px of a thumbnail
_READ = 64  # px at which files are read for it
_FLAT = 2 / 255  # deviation below which a thumbnail has no content to compare
_ROWS = 2048  # test images compared at a time


class Overlap(NamedTuple):
    """Test images that are the same as a training image.

    Attributes:
        images: Their number.
        contradicted: Those of them that no equal training image shares the classes of.
    """

    images: int
    contradicted: int


def overlap(data: LabeledImages, features: Mapping[FeatureSource, Sequence[Features]]) -> Overlap:
    """Find the test images that are the same as a training image.

    Raises:
        DataError: All of them are.
    """
    first = next(iter(features.values()), None)
    if first is None:
        return Overlap(0, 0)
    copies = torch.isin(first[0].test.digests, first[0].train.digests)
    count = int(copies.sum())
    if count and count == data.count("test"):
        raise DataError(
            f"all {count:,} test images are the same as training images: the accuracy on images "
            "that were trained on says nothing; name other --test-data"
        )
    return Overlap(count, _contradicted(data, first[0], copies))


def _contradicted(data: LabeledImages, features: Features, copies: Tensor) -> int:
    test = features.test.digests[copies]
    trained = torch.isin(features.train.digests, test)
    known = set(_labeled(data, "train", features.train, trained))
    return sum(each not in known for each in _labeled(data, "test", features.test, copies))


def _labeled(
    data: LabeledImages, split: Split, features: StoredFeatures, chosen: Tensor
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Digest and targets of the chosen images, a bool mask ``[N]``."""
    targets = data.targets(split, features.indices[chosen])
    digests = features.digests[chosen].tolist()
    yield from zip(digests, map(tuple, targets.tolist()), strict=True)


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
