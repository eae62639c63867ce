"""Audit of instance discrimination: images recognized, and neighbors chosen, by their colors.

Wu et al. 2018, section 4: without augmentation of color an image is told from others by its color
histogram.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.errors import UsageError
from ssltool.methods.auditing import (
    BASE,
    CHANCE,
    IMAGE_CHANGES,
    IMAGE_COMPARISONS,
    Comparison,
    Condition,
    ImageChange,
    Plan,
    batched,
    constant,
    replaced,
    seeded,
)
from ssltool.ops import interventions, low_level

if TYPE_CHECKING:
    from ssltool.methods.npid.task import Npid

_NEIGHBORS = 10


def plan(method: Npid, seed: int) -> Plan:
    """Accuracy of recognizing a crop of an image among all of the memory bank, and agreement of
    neighbors with those by color histogram.
    """
    score = partial(_condition, method, seed)
    conditions: dict[str, Condition] = {
        BASE: score(),
        CHANCE: constant(1 / method.count),
        **{name: score(change) for name, change in IMAGE_CHANGES.items()},
        "color fringes removed": score(_without_fringes),
        "random neighbors": lambda images, index: torch.full(
            (len(images),), _count(images) / max(1, len(images) - 1), dtype=torch.float64
        ),
        "neighbors also by color": partial(_agreement, method, None),
        "neighbors also by color, images gray": partial(_agreement, method, IMAGE_CHANGES["gray"]),
    }
    shared = "share of the neighbors that are neighbors by color histogram"
    own = [comparison for comparison in IMAGE_COMPARISONS if comparison.cue != "color"]
    comparisons = [
        # What an image is told by, not what is in it: here color is the shortcut.
        Comparison("color", "cue", BASE, "gray", chromatic=True),
        Comparison(
            "neighbors by color histogram",
            "cue",
            "neighbors also by color",
            "neighbors also by color, images gray",
            shared,
            chromatic=True,
        ),
        Comparison("chromatic offset", "cue", BASE, "color fringes removed", chromatic=True),
        *own,
        Comparison(
            "color histogram", "probe", "neighbors also by color", "random neighbors", shared, True
        ),
    ]
    return Plan("accuracy", "fraction", conditions, comparisons)


def _condition(method: Npid, seed: int, change: ImageChange | None = None) -> Condition:
    """Whether a crop of an image is nearer to the image's own memory vector than to all others;
    crops as in training, without its augmentation of color.
    """
    plain = dataclasses.replace(method.augmentation, jitter=0.0, hue=0.0, grayscale=0.0, invert=0.0)

    def score(images: Tensor, index: Tensor) -> Tensor:
        if int(index.max()) >= method.count:
            raise UsageError(
                f"npid recognizes its own {method.count} training images, and these are others; "
                "drop --data"
            )
        images = change(images) if change else images
        correct = []
        for draw in range(2):
            with replaced(method, training=True, augmentation=plain):
                view = method.view(images, index, seeded(seed + draw))
            features = method.embed(view.images)
            scores = features @ method.bank.rows.to(features.dtype).T
            correct.append((scores.argmax(dim=1) == index).double())
        return torch.stack(correct).mean(dim=0)

    return batched(score)


def _without_fringes(images: Tensor) -> Tensor:
    return interventions.blur_chroma(images).round().clamp(0, 255).to(torch.uint8)


def _count(images: Tensor) -> int:
    return min(_NEIGHBORS, len(images) - 1)


def _agreement(method: Npid, change: ImageChange | None, images: Tensor, index: Tensor) -> Tensor:
    """Share of an image's nearest neighbors, among the images of the audit, that are also its
    nearest by color histogram.
    """

    @batched
    def embeddings(images: Tensor, index: Tensor) -> Tensor:
        images = change(images) if change else images
        return method.embed(method.view(images, index, seeded(0)).images)

    @batched
    def histograms(images: Tensor, index: Tensor) -> Tensor:
        del index
        return low_level.color_histograms(images).sqrt()  # products: the Bhattacharyya coefficient

    one, other = (
        _nearest(vectors(images, index), _count(images)) for vectors in (embeddings, histograms)
    )
    shared = (one[:, :, None] == other[:, None, :]).any(dim=2)
    return shared.double().mean(dim=1)


def _nearest(vectors: Tensor, count: int) -> Tensor:
    """The nearest others of each vector ``[n, D]`` by dot product, int64 ``[n, count]``."""
    similarity = vectors @ vectors.T
    return similarity.fill_diagonal_(-torch.inf).topk(count, dim=1).indices
