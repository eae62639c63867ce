"""Class-balanced splits and label subsets, functions of a seed."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_split(labels: Tensor, holdout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split images into a part to train on and a held-out part, class by class.

    Of a class with n images ``round(holdout * n)`` are held out, but at least one, and never all: a
    class with a single image stays in training.

    Args:
        labels: int64 ``[N]``.
        holdout: Fraction, 0..1.
        seed: Decides which images.

    Returns:
        Indices of both parts, int64 on the CPU, ascending, disjoint, together all of 0..N-1.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(len(labels), dtype=torch.bool)
    labels = labels.cpu()[shuffled]
    for c in torch.unique(labels):
        members = shuffled[labels == c]
        quota = min(max(round(holdout * len(members)), 1), len(members) - 1)
        held[members[:quota]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def label_subset(
    labels: Tensor, seed: int, *, fraction: float | None = None, shots: int | None = None
) -> Tensor:
    """Sample the images of every class that keep their label.

    Of a class with n images ``round(fraction * n)`` are taken, at least one, or ``shots``, at most
    n. With one seed, smaller subsets are contained in larger ones.

    Args:
        labels: int64 ``[N]``, the class of each image.
        seed: Decides which images.
        fraction: Above 0, at most 1.
        shots: Images of each class, at least 1; give this or ``fraction``.

    Returns:
        Indices int64 on the CPU, shuffled.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for c in torch.unique(labels):
        members = shuffled[labels[shuffled] == c]
        count = shots if fraction is None else max(1, round(fraction * len(members)))
        taken[members[:count]] = True
    return shuffled[taken[shuffled]]
