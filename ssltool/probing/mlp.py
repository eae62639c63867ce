"""MLP probe: a classifier with one hidden layer on frozen features.

AdamW with a cosine schedule, on features standardized by the training images; the weight decay is
chosen on a tenth of them, then the fit is repeated on all.

Shapes: N images, D dimensions, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from ssltool.probing.convex import ROWS_AT_ONCE, moments
from ssltool.probing.splits import stratified_split

GRID = (1e-3, 1e-1, 1.0)
"""Weight decays tried."""

HIDDEN = 512
DROPOUT = 0.2
_LR = 2e-3
_BATCH = 256
_EPOCHS = 20
_MIN_STEPS = 300  # few images are seen more often


class MlpResult(NamedTuple):
    """Result of the MLP probe.

    Attributes:
        accuracy: Top-1 on the test images, percent.
        held_out: The same on a tenth of the training images, at the chosen weight decay; None if no
            class has two of them.
    """

    accuracy: float
    held_out: float | None


def fit_and_score(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    seed: int,
    *,
    grid: Sequence[float] = GRID,
) -> MlpResult:
    """Choose the weight decay, train on all training images, and score on the test images.

    The same inputs give the same values on a CPU. torch's global generator is left as it was.

    Args:
        train_x: float ``[N, D]``, not standardized.
        train_y: int64 ``[N]``, classes 0 to ``classes - 1``.
        test_x: float ``[M, D]``.
        test_y: int64 ``[M]``.
        classes: C.
        seed: Of the split, the first weights, the order and dropout.
        grid: Weight decays to try.
    """
    kept, held = (part.to(train_x.device) for part in stratified_split(train_y, 0.1, seed))
    best, scores = sorted(grid)[len(grid) // 2], dict[float, float]()
    if len(held):
        scores = {
            decay: _accuracy(
                _fit(train_x, train_y, classes, seed, decay, kept), train_x, train_y, held
            )
            for decay in grid
        }
        best = max(scores, key=lambda decay: (scores[decay], decay))
    everything = torch.arange(len(train_y), device=train_x.device)
    network = _fit(train_x, train_y, classes, seed, best, everything)
    test = torch.arange(len(test_y), device=test_x.device)
    return MlpResult(_accuracy(network, test_x, test_y, test), scores.get(best))


class _Mlp(nn.Module):
    """Standardization, one hidden layer, scores."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int) -> None:
        super().__init__()
        self._mean, self._std = mean, std
        self.layers = nn.Sequential(
            nn.Linear(len(mean), HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers((x.float() - self._mean) / self._std)
        return scores


def _fit(x: Tensor, y: Tensor, classes: int, seed: int, decay: float, indices: Tensor) -> _Mlp:
    """Train on the images at ``indices``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Mlp(*moments(x), classes).to(x.device).train()
        size = min(_BATCH, len(indices))
        steps = max(_MIN_STEPS, _EPOCHS * len(indices) // size)
        optimizer = AdamW(network.parameters(), lr=_LR, weight_decay=decay)
        waiting = indices[:0]
        for step in range(steps):
            if len(waiting) < size:
                order = torch.randperm(len(indices)).to(indices.device)
                waiting = torch.cat([waiting, indices[order]])
            rows, waiting = waiting[:size], waiting[size:]
            for group in optimizer.param_groups:
                group["lr"] = _LR * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(F.cross_entropy(network(x[rows]), y[rows]))
            optimizer.step()
    return network.eval()


@torch.no_grad()
def _accuracy(network: _Mlp, x: Tensor, y: Tensor, indices: Tensor) -> float:
    correct = sum(
        int((network(x[rows]).argmax(1) == y[rows]).sum())
        for rows in torch.split(indices, ROWS_AT_ONCE)
    )
    return 100 * correct / len(indices)
