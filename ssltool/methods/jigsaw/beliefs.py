"""From a distribution over permutations to one over places: the belief table and its best
assignment.

A classifier of K permutations says more than its best one: summed over all permutations that agree
on a tile, it says where each tile belongs. The assignment that suits these beliefs best may be
outside of the set.

Letters: M answers, K permutations, N tiles; p shows in slot i the tile of cell p[i].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def belief_tables(logits: Tensor, orders: Tensor) -> Tensor:
    """P(slot i holds the tile of cell j) = sum over k of softmax(logits)[k] [p_k[i] = j].

    Args:
        logits: float ``[M, K]``.
        orders: int64 ``[K, N]``, the permutations.

    Returns:
        float ``[M, N, N]``, doubly stochastic.
    """
    count, tiles = orders.shape
    places = F.one_hot(orders, tiles).to(logits.dtype).view(count, -1)  # [K, N*N]
    return (logits.softmax(dim=1) @ places).view(-1, tiles, tiles)


def best_assignments(tables: Tensor) -> Tensor:
    """The permutation of each table ``[M, N, N]`` with the largest sum of beliefs, which is the
    expected number of correct tiles: int64 ``[M, N]``, a cell for each slot.
    """
    rows = [_assign(table) for table in (-tables).double().cpu().tolist()]
    return torch.tensor(rows, dtype=torch.int64, device=tables.device).view(tables.shape[:2])


def _assign(cost: list[list[float]]) -> list[int]:
    """Column of each row of a square table so that the sum is least (Kuhn 1955).

    Rows are added one by one, each along the shortest augmenting path; u and v are the potentials
    by which all reduced costs are at least 0. O(N^3).
    """
    size = len(cost)
    u, v = [0.0] * size, [0.0] * size
    row_of = [-1] * size  # of each column
    for new in range(size):
        least, before = [float("inf")] * size, [-1] * size
        done: list[int] = []
        row, column = new, -1
        while row >= 0:
            free = [j for j in range(size) if j not in done]
            for j in free:
                reduced = cost[row][j] - u[row] - v[j]
                if reduced < least[j]:
                    least[j], before[j] = reduced, column
            nearest = min(free, key=least.__getitem__)
            delta = least[nearest]
            u[new] += delta
            for j in done:
                u[row_of[j]] += delta
                v[j] -= delta
            for j in free:
                least[j] -= delta
            column = nearest
            done.append(column)
            row = row_of[column]
        while column >= 0:  # the path is shifted by one
            previous = before[column]
            row_of[column] = new if previous < 0 else row_of[previous]
            column = previous
    columns = [0] * size
    for column, row in enumerate(row_of):
        columns[row] = column
    return columns
