"""Linear probe: multinomial logistic regression on frozen features, solved to the optimum.

The objective is convex, so the answer depends on the features alone and not on a learning rate or a number of epochs:

    mean cross-entropy + weight_decay / 2 * ||W||^2        (the bias is free)

on features standardised by the mean and deviation of the training pictures. L-BFGS on the whole training set finds it,
in coordinates where the curvature is near one in each direction (``_preconditioner``). The weight decay is chosen on a
tenth of the training pictures, never on the test pictures.

Shapes: N pictures, D numbers per picture, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.errors import DataError

GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Weight decays tried first; the search goes on beyond an end at which the best one lies."""

ROWS_AT_ONCE = 8192
"""Pictures per matrix product; the parts are summed in float64."""

BLOCK = 2048
"""Features whose correlations the preconditioner knows; wider ones are cut into blocks of at most this many."""


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted probe.

    Attributes:
        weight: float32 ``[C, D]``, for standardised features.
        bias: float32 ``[C]``; minus infinity for a class without training pictures.
        mean: float32 ``[D]``, subtracted from the features.
        std: float32 ``[D]``, what they are then divided by; infinite for a constant feature, which so stays 0.
        converged: Whether the optimum was reached, not just the last iteration.
        iterations: Iterations of L-BFGS it took.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    converged: bool
    iterations: int

    def logits(self, x: Tensor) -> Tensor:
        """Scores float32 ``[N, C]`` of features ``[N, D]``."""
        parts = [((part - self.mean) / self.std) @ self.weight.T + self.bias for part in x.float().split(ROWS_AT_ONCE)]
        return torch.cat(parts)

    def predict(self, x: Tensor) -> Tensor:
        """Most likely class int64 ``[N]`` of features ``[N, D]``."""
        return self.logits(x).argmax(1)


@dataclass(frozen=True)
class LinearResult:
    """What a linear probe found.

    Attributes:
        accuracy: Top-1 on the test pictures, percent.
        per_class: The same for each class; None for a class without test pictures.
        weight_decay: The chosen value.
        holdout: Accuracy in percent on the held-out training pictures for each weight decay tried, smallest first;
            empty if no class has two training pictures, so that nothing could be held out.
        converged: Whether the final fit reached the optimum.
        iterations: Iterations of L-BFGS of the final fit.
        classifier: The final fit, on all training pictures.
    """

    accuracy: float
    per_class: tuple[float | None, ...]
    weight_decay: float
    holdout: dict[float, float]
    converged: bool
    iterations: int
    classifier: LinearClassifier


def fit_and_score(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: int,
    seed: int,
    *,
    grid: Sequence[float] = GRID,
) -> LinearResult:
    """Choose the weight decay on held-out training pictures, fit on all of them, and score on the test pictures.

    Args:
        train_x: float ``[N, D]``, not standardised.
        train_y: int64 ``[N]``, classes 0 to ``classes - 1``; a class may lack training pictures.
        test_x: float ``[M, D]``.
        test_y: int64 ``[M]``.
        classes: Number of classes.
        seed: Decides which training pictures are held out.
        grid: Weight decays to try, see :func:`choose_weight_decay`.

    Returns:
        The result; the same inputs give the same bytes.

    Raises:
        DataError: As in :func:`fit`.
    """
    weight_decay, holdout = choose_weight_decay(train_x, train_y, grid, seed)
    classifier = fit(train_x, train_y, classes, weight_decay)
    right = (classifier.predict(test_x) == test_y).double().cpu()
    per_class = [right[test_y.cpu() == c] for c in range(classes)]
    return LinearResult(
        accuracy=100 * float(right.mean()),
        per_class=tuple(100 * float(hits.mean()) if len(hits) else None for hits in per_class),
        weight_decay=weight_decay,
        holdout=holdout,
        converged=classifier.converged,
        iterations=classifier.iterations,
        classifier=classifier,
    )
