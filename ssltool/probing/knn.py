"""Weighted k-nearest-neighbor classification by cosine similarity.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section
3.4.

Shapes: Q queries, N bank rows (the labeled training images), D dimensions, k neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.errors import DataError
from ssltool.probing.splits import selection_splits

SCORES_AT_ONCE = 8_000_000
"""Similarities held at a time: 32 MB, small enough for the cache, for any number of queries."""


def nearest(
    queries: Tensor, bank: Tensor, k: int, *, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the k bank rows most similar to each query, by cosine.

    Neighbors are sorted, most similar first; equal ones in the order of the bank. The first j of k
    neighbors are exactly those that ``k=j`` gives.

    Args:
        queries: float ``[Q, D]``; need not be normalized. A row of zeros has similarity 0 to
            everything.
        bank: float ``[N, D]`` on the same device.
        k: Number of neighbors, 1 to N; more than N is taken as N.
        chunk: Queries compared at a time; by default as many as keep ``SCORES_AT_ONCE``
            similarities in memory.

    Returns:
        Similarities float32 ``[Q, k]`` in -1..1 and indices into the bank, int64 ``[Q, k]``, on the
        device of ``bank``.

    Raises:
        DataError: A feature is NaN or infinite, the bank is empty, or the widths differ.
    """
    queries, bank = queries.float(), bank.float()
    _check(queries, bank)
    k = min(k, len(bank))
    chunk = chunk or max(1, SCORES_AT_ONCE // len(bank))
    # Scaling the similarities saves a normalized copy of the bank, which may be most of the memory
    # there is.
    scale = bank.norm(dim=1).clamp_min(1e-12).reciprocal()
    parts = [
        _largest((F.normalize(part) @ bank.T).mul_(scale), k)
        for part in torch.split(queries, chunk)
    ]
    return torch.cat([values for values, _ in parts]), torch.cat([indices for _, indices in parts])


def knn_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    *,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    chunk: int | None = None,
) -> dict[int, float]:
    """Classify test images by their nearest training images, for several k from one search.

    Args:
        train_x: float ``[N, D]``.
        train_y: int64 ``[N]``, classes from 0.
        test_x: float ``[Q, D]``.
        test_y: int64 ``[Q]``.
        classes: Number of classes.
        ks: Numbers of neighbors. A k above N counts all N images; it keeps its own entry in the
            result.
        temperature: tau in the weight ``exp(similarity / tau)`` of a neighbor's vote.
        chunk: See :func:`nearest`.

    Returns:
        Top-1 accuracy in percent for each k, in the order given.

    Raises:
        DataError: As in :func:`nearest`.
    """
    similarities, indices = nearest(test_x, train_x, max(ks), chunk=chunk)
    # On the CPU votes are added in a fixed order, in float64, which not every accelerator has.
    similarities, labels, truth = similarities.cpu(), train_y.cpu()[indices.cpu()], test_y.cpu()
    return {
        k: 100
        * float(
            (vote(similarities[:, :k], labels[:, :k], classes, temperature) == truth)
            .double()
            .mean()
        )
        for k in ks
    }


def held_out_accuracy(x: Tensor, y: Tensor, classes: int, seed: int, *, k: int) -> float | None:
    """Accuracy in percent on held-out training images, whose neighbors are the other ones.

    Args:
        x: float ``[N, D]``, training images only.
        y: int64 ``[N]``, classes from 0.
        classes: Number of classes.
        seed: Decides the splits, see `ssltool.probing.splits.selection_splits`.
        k: Number of neighbors.

    Returns:
        None if no class has two images.

    Raises:
        DataError: As in :func:`nearest`.
    """
    correct, count = 0.0, 0
    for kept, held in selection_splits(y, seed):
        kept, held = kept.to(x.device), held.to(x.device)
        part = knn_accuracy(x[kept], y[kept], x[held], y[held], classes, ks=(k,))
        correct += part[k] * len(held)
        count += len(held)
    return correct / count if count else None


def vote(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Class with the largest sum of ``exp(similarity / temperature)`` over the neighbors; the lower
    class if equal.

    Args:
        similarities: float ``[Q, k]``.
        labels: int64 ``[Q, k]``, the class of each neighbor.
        classes: Number of classes.
        temperature: tau, above 0.

    Returns:
        int64 ``[Q]``.
    """
    # Less 1: the same winner, and no overflow for a small tau.
    weights = ((similarities.double() - 1) / temperature).exp()
    return weights.new_zeros(len(labels), classes).scatter_add_(1, labels, weights).argmax(1)


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, equal values in the order of their columns, which ``topk`` alone
    does not promise.
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    cut_in_a_tie = (values[:, k - 1 : -1] == values[:, k:]).any(1)
    columns, order = columns[:, :k].sort(1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if cut_in_a_tie.any():
        ranked, order = scores[cut_in_a_tie].sort(dim=1, descending=True, stable=True)
        values[cut_in_a_tie], columns[cut_in_a_tie] = ranked[:, :k], order[:, :k]
    return values, columns


def _check(queries: Tensor, bank: Tensor) -> None:
    if not len(bank):
        raise DataError(
            "there are no training images to search; nearest neighbors need at least one"
        )
    if queries.shape[1] != bank.shape[1]:
        raise DataError(
            f"queries have {queries.shape[1]} dimensions and training images {bank.shape[1]}; "
            "both must come from the same encoder and layer"
        )
    if not (queries.isfinite().all() and bank.isfinite().all()):
        raise DataError(
            "some features are NaN or infinite; the weights have diverged: probe an earlier "
            "checkpoint"
        )
