"""Linear probe: multinomial logistic regression on frozen features, solved to the optimum.

    mean cross-entropy + weight_decay / 2 * ||W||^2        (the bias is free)

on features standardized by the mean and deviation of the training images, see
`ssltool.probing.convex`. The weight decay is chosen on held-out training images, see
`ssltool.probing.splits.selection_splits`, never on the test images.

Shapes: N images, D dimensions, C classes. ``theta`` is ``[C, D + 1]``, the weight with the
bias as its last column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import DataError
from ssltool.probing.convex import Problem, Rows, moments, scores
from ssltool.probing.splits import selection_splits

GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Weight decays tried first; the search continues beyond an end if the best one lies there."""

FEW = 200
"""Images up to which the search ends at the optimum: each held-out image counts for percents."""

PRECISE_SEARCH = 20_000
"""Images up to which the search for the weight decay is precise: it takes seconds, and few held-out
images decide."""

EXTENSIONS = 3
"""Values tried beyond an end of the grid, each ten times the one before or a tenth of it."""


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted probe.

    Attributes:
        weight: float32 ``[C, D]``, for standardized features.
        bias: float32 ``[C]``; minus infinity for a class without training images.
        mean: float32 ``[D]``, subtracted from the features.
        std: float32 ``[D]``, what they are then divided by; infinite for a constant feature, which
            so stays 0.
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
        return scores(x, self.weight, self.bias, self.mean, self.std)

    def predict(self, x: Tensor) -> Tensor:
        """Most likely class int64 ``[N]`` of features ``[N, D]``."""
        return self.logits(x).argmax(1)


@dataclass(frozen=True)
class LinearResult:
    """Result of a linear probe.

    Attributes:
        accuracy: Top-1 on the test images, percent.
        per_class: The same for each class; None for a class without test images.
        weight_decay: The chosen value.
        holdout: Accuracy in percent on the held-out training images for each weight decay tried,
            smallest first; empty if no class has two training images, so that nothing could be held
            out.
        converged: Whether the final fit reached the optimum.
        iterations: Iterations of L-BFGS of the final fit.
        classifier: The final fit, on all training images.
    """

    accuracy: float
    per_class: tuple[float | None, ...]
    weight_decay: float
    holdout: dict[float, float]
    converged: bool
    iterations: int
    classifier: LinearClassifier

    @property
    def held_out(self) -> float | None:
        """Accuracy in percent on held-out training images at the chosen weight decay."""
        return self.holdout.get(self.weight_decay)


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
    """Choose the weight decay on held-out training images, fit on all of them, and score on the
    test images.

    Args:
        train_x: float ``[N, D]``, not standardized.
        train_y: int64 ``[N]``, classes 0 to ``classes - 1``; a class may lack training images.
        test_x: float ``[M, D]``.
        test_y: int64 ``[M]``.
        classes: Number of classes.
        seed: Decides which training images are held out.
        grid: Weight decays to try, see :func:`choose_weight_decay`.

    Returns:
        The result; the same inputs give the same bytes.

    Raises:
        DataError: As in :func:`fit`.
    """
    weight_decay, holdout, start = _search(train_x, train_y, grid, seed)
    classifier = fit(train_x, train_y, classes, weight_decay, start=start)
    correct = (classifier.predict(test_x) == test_y).cpu().double()
    truth = test_y.cpu()
    per_class = [correct[truth == c] for c in range(classes)]
    return LinearResult(
        accuracy=100 * float(correct.mean()),
        per_class=tuple(100 * float(hits.mean()) if len(hits) else None for hits in per_class),
        weight_decay=weight_decay,
        holdout=holdout,
        converged=classifier.converged,
        iterations=classifier.iterations,
        classifier=classifier,
    )


def fit(
    x: Tensor,
    y: Tensor,
    classes: int,
    weight_decay: float,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 1000,
) -> LinearClassifier:
    """Fit the probe for one weight decay.

    Args:
        x: float ``[N, D]``, not standardized, on any device.
        y: int64 ``[N]``, classes 0 to ``classes - 1``.
        classes: C.
        weight_decay: At least 0; at 0 separable images have no optimum and the fit ends
            unconverged.
        start: theta to start from, float64 with one row for each class that has images; zeros if
            not given. It changes the time but not the optimum.
        tolerance: The optimum counts as reached when no part of the gradient, in the coordinates of
            the solver, is larger; 5e-6 for features that are solved in float64, else 5e-5. The
            objective is then within about 1e-6 of its minimum.
        max_iterations: Iterations after which to stop.

    Returns:
        The classifier, on the device of ``x``.

    Raises:
        DataError: A feature is NaN or infinite, a label is out of range, or all images are of
            one class.
    """
    present, labels = _present_classes(y)
    if int(present[-1]) >= classes or int(present[0]) < 0:
        raise DataError(
            f"labels from {int(present[0])} to {int(present[-1])} found, 0 to {classes - 1} "
            "expected"
        )
    mean, std = moments(x)
    rows = Rows(x, labels, mean, std)
    if tolerance is None:
        tolerance = 5e-6 if rows.dtype == torch.float64 else 5e-5
    solution = problem(rows, len(present)).minimize(weight_decay, start, tolerance, max_iterations)
    weight = x.new_zeros(classes, x.shape[1], dtype=torch.float32)
    bias = x.new_full((classes,), -torch.inf, dtype=torch.float32)
    weight[present], bias[present] = (
        solution.theta[:, :-1].to(weight),
        solution.theta[:, -1].to(bias),
    )
    return LinearClassifier(weight, bias, mean, std, solution.converged, solution.iterations)


def problem(
    rows: Rows, classes: int, parts: Sequence[Tensor] | None = None, *, coarse: bool = False
) -> Problem:
    """Cross-entropy on rows whose targets are classes, int64 ``[n]``; the rest as in `Problem`."""
    return Problem(rows, classes, cross_entropy, 1 / classes, parts, coarse=coarse)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies ``[n, F]`` of logits ``[n, F, C]``, and their gradients ``[n, F, C]``."""
    log_p = logits.log_softmax(-1)
    place = labels[:, None, None].expand(-1, log_p.shape[1], 1)
    losses = -log_p.gather(2, place)[..., 0]
    residual = log_p.exp_()
    residual.scatter_add_(2, place, residual.new_full((1, 1, 1), -1.0).expand(place.shape))
    return losses, residual


def choose_weight_decay(
    x: Tensor, y: Tensor, grid: Sequence[float], seed: int
) -> tuple[float, dict[float, float]]:
    """Choose the weight decay that does best on held-out training images; the stronger one if two
    do equally well.

    If an end of the grid is best, better than its neighbor, the search continues beyond it, at most
    ``EXTENSIONS`` times.

    Args:
        x: float ``[N, D]``, training images only.
        y: int64 ``[N]``.
        grid: Values to try. If no class has two images nothing can be held out, and the middle one
            is taken.
        seed: Decides the splits, see `selection_splits`.

    Returns:
        The value, and the held-out accuracy in percent of each value tried, smallest value first;
        empty if there was nothing to choose by.

    Raises:
        DataError: As in :func:`fit`.
    """
    best, table, _ = _search(x, y, grid, seed)
    return best, table


def _search(
    x: Tensor, y: Tensor, grid: Sequence[float], seed: int
) -> tuple[float, dict[float, float], Tensor | None]:
    """The chosen weight decay, the table of held-out accuracies, and theta of a fit with it."""
    present, labels = _present_classes(y)
    splits = selection_splits(y, seed)
    if not splits:
        return sorted(grid)[len(grid) // 2], {}, None
    mean, std = moments(x)  # of all training images: a few more or less of them move no choice
    few = len(y) <= FEW
    rows = Rows(x, labels, mean, std, exact=few)
    search = problem(rows, len(present), [kept for kept, _ in splits], coarse=not few)
    held_out = [Rows(x, labels, mean, std, held.to(x.device)) for _, held in splits]
    images = sum(rows.count for rows in held_out)
    # Which value is best shows long before convergence, with many images earlier still.
    tolerance = 2e-5 if few else 5e-4 if len(y) <= PRECISE_SEARCH else 2e-3
    iterations = 1000 if few else 200
    thetas: dict[float, Tensor] = {}
    table: dict[float, float] = {}
    # From strong to weak, each fit starts near its optimum.
    path, start = sorted(set(grid), reverse=True), None
    while path:
        value = path.pop(0)
        start = search.minimize(value, start, tolerance, iterations).theta
        thetas[value] = start
        correct = sum(map(_correct, start.chunk(len(splits)), held_out))
        table[value] = 100 * correct / images
        if not path and len(table) < len(set(grid)) + EXTENSIONS:
            path = _beyond_the_end(table)
            start = thetas[_best(table)]
    best = _best(table)
    return best, {value: table[value] for value in sorted(table)}, thetas[best][: len(present)]


def _correct(theta: Tensor, rows: Rows) -> int:
    """Number of the rows whose class has the highest score."""
    weight, bias = (part.to(rows.device, rows.dtype) for part in (theta[:, :-1], theta[:, -1]))
    return sum(
        int((torch.addmm(bias, z, weight.T).argmax(1) == labels).sum()) for z, labels in rows
    )


def _best(table: dict[float, float]) -> float:
    return max(table, key=lambda value: (table[value], value))


def _beyond_the_end(table: dict[float, float]) -> list[float]:
    """The next value to try if the best one is an end of the grid and better than its neighbor,
    else nothing.
    """
    values, best = sorted(table), _best(table)
    if len(values) < 2:
        return []
    if best == values[0]:
        return [float(f"{best / 10:.3g}")]  # without the rounding error, which would be shown
    if best == values[-1] and table[best] > table[values[-2]]:
        return [float(f"{best * 10:.3g}")]
    return []


def _present_classes(y: Tensor) -> tuple[Tensor, Tensor]:
    """Classes that have images, ascending, and the position of each image's class among them."""
    present, labels = torch.unique(y, return_inverse=True)
    if len(present) < 2:
        one = f"all {len(y)} labeled images are of one class"
        raise DataError(
            f"{one if len(present) else 'no labeled image'}; a probe needs at least two classes"
        )
    return present, labels
