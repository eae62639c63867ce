"""Class-balanced splits and label subsets, functions of a seed."""

from __future__ import annotations

import torch
from torch import Tensor

FOLDED = 2000
"""Training images up to which choices are made by three folds; of more, a tenth is held out."""


def stratified_split(
    labels: Tensor, holdout: float, seed: int, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split images into a part to train on and a held-out part, class by class.

    Of a class with n images ``round(holdout * n)`` are held out, but at least one, and never all: a
    class with a single image stays in training.

    Args:
        labels: int64 ``[N]``.
        holdout: Fraction, 0..1.
        seed: Decides which images.
        groups: int64 ``[N]``: images of one group, such as copies of one file, stay on one side.
            The fraction is then one of the groups, each of which has the class of its first image.

    Returns:
        Indices of both parts, int64 on the CPU, ascending, disjoint, together all of 0..N-1.
    """
    labels = labels.cpu()
    if groups is not None:
        _, group_of = torch.unique(groups.cpu(), return_inverse=True)
        images = torch.arange(len(labels))
        first = images.new_full((int(group_of.max()) + 1,), len(labels))
        first.scatter_reduce_(0, group_of, images, "amin")
        ordered = first.sort().values  # without copies, the very split that no groups give
        _, held = stratified_split(labels[ordered], holdout, seed)
        is_held = torch.isin(first[group_of], ordered[held])
        return (~is_held).nonzero()[:, 0], is_held.nonzero()[:, 0]
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    labels = labels[shuffled]
    for c in torch.unique(labels):
        members = shuffled[labels == c]
        quota = min(max(round(holdout * len(members)), 1), len(members) - 1)
        is_held[members[:quota]] = True
    return (~is_held).nonzero()[:, 0], is_held.nonzero()[:, 0]


def selection_splits(labels: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Splits of the training images by which hyperparameters and stages are chosen.

    Three folds of up to `FOLDED` images, because few held-out images decide little; a stratified
    tenth of more.

    Args:
        labels: int64 ``[N]``.
        seed: Decides which images.

    Returns:
        Images to fit on and images to score on, int64, of each split; none if no class has two
        images.
    """
    if len(labels) > FOLDED:
        kept, held = stratified_split(labels, 0.1, seed)
        return [(kept, held)] if len(held) else []
    labels = labels.cpu()
    alone = torch.bincount(labels)[labels] == 1 if len(labels) else labels.bool()
    if alone.all():
        return []
    # The only image of a class stays in training, as in `stratified_split`.
    return [
        (torch.cat([kept, held[alone[held]]]).sort().values, held[~alone[held]])
        for kept, held in folds(labels, seed, 3)
    ]


def folds(labels: Tensor, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Images to fit on and images to score on, int64, of each fold.

    Folds are stratified: their counts of a class differ by at most one.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    dealt = shuffled[labels[shuffled].sort(stable=True).indices]
    fold = torch.empty_like(labels)
    fold[dealt] = torch.arange(len(labels)) % count
    return [((fold != f).nonzero()[:, 0], (fold == f).nonzero()[:, 0]) for f in range(count)]


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
