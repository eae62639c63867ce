"""Linear one-against-the-rest SVMs and their mean average precision: the VOC07 protocol.

Goyal et al. 2019, "Scaling and Benchmarking Self-Supervised Visual Representation Learning",
section 3 and the appendix: squared hinge loss, positive images weighted twice, the cost of each
class chosen by average precision over three folds of the training images. An image may have any
number of classes, and may be ignored for some of them (VOC's "difficult" objects).

All classes are solved together, to the optimum, by `ssltool.probing.convex`. With N images a weight
decay w is the cost 1 / (w N) of LIBLINEAR, on standardized features and with a free bias.

Shapes: N images, D dimensions, C classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import DataError
from ssltool.probing.convex import Problem, Rows, moments, scores
from ssltool.probing.splits import folds

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weight decays tried for each class."""

FOLDS = 3
BOOTSTRAP = 50
"""Samples of the test images from which a standard error is computed."""

POSITIVE = 2.0
"""Weight of a class's own images."""


@dataclass(frozen=True)
class SvmClassifier:
    """Fitted SVMs, one for each class.

    Attributes:
        weight: float32 ``[C, D]``, for standardized features.
        bias: float32 ``[C]``.
        mean: float32 ``[D]``, subtracted from the features.
        std: float32 ``[D]``, what they are then divided by.
        converged: Whether the optimum was reached.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    converged: bool

    def scores(self, x: Tensor) -> Tensor:
        """Signed distances float32 ``[N, C]`` to the decision boundaries, in margins, of features
        ``[N, D]``; positive in the class.
        """
        return scores(x, self.weight, self.bias, self.mean, self.std)


@dataclass(frozen=True)
class SvmResult:
    """Result of the SVM probe.

    Attributes:
        mean_ap: Mean over the classes of the average precision on the test images, percent.
        standard_error: Of ``mean_ap``, in percentage points: its deviation over bootstrap samples
            of the test images.
        per_class: Average precision of each class, percent; None for a class without test or
            training images.
        weight_decays: The chosen value for each class.
        held_out: As ``mean_ap``, over the folds of the training images, at the chosen values; None
            if no class could be scored.
        converged: Whether the final fit reached the optimum.
        classifier: The final fit, on all training images.
    """

    mean_ap: float
    standard_error: float
    per_class: tuple[float | None, ...]
    weight_decays: tuple[float, ...]
    held_out: float | None
    converged: bool
    classifier: SvmClassifier


def targets_of(labels: Tensor, classes: int) -> Tensor:
    """Targets float32 ``[N, C]``, 1 for an image's class and -1 for the others, of classes int64
    ``[N]``.
    """
    return torch.full((len(labels), classes), -1.0, device=labels.device).scatter_(
        1, labels[:, None], 1.0
    )


def fit_and_score(
    train_x: Tensor,
    train_t: Tensor,
    test_x: Tensor,
    test_t: Tensor,
    seed: int,
    *,
    grid: Sequence[float] = GRID,
    positive: float = POSITIVE,
) -> SvmResult:
    """Choose each class's cost by folds, fit on all training images, and score on the test images.

    Args:
        train_x: float ``[N, D]``, not standardized.
        train_t: float ``[N, C]``: 1 in the class, -1 not in it, 0 ignored.
        test_x: float ``[M, D]``.
        test_t: float ``[M, C]``, likewise.
        seed: Decides the folds.
        grid: Weight decays to try.
        positive: Weight of a class's own images.

    Raises:
        DataError: A feature is NaN or infinite, or no class has both images in it and images not in
            it.
    """
    usable = (train_t == 1).any(0) & (train_t == -1).any(0)
    if not usable.any():
        raise DataError(
            "no class has both images in it and images outside of it; an SVM needs both"
        )
    decays, held_out = choose_weight_decays(train_x, train_t, grid, seed, positive)
    classifier = fit(train_x, train_t, decays, positive=positive)
    test_scores = classifier.scores(test_x)
    precisions = average_precisions(test_scores, test_t)
    per_class = [
        value if fitted else None for value, fitted in zip(precisions, usable.tolist(), strict=True)
    ]
    defined = [value for value in per_class if value is not None]
    if not defined:
        raise DataError("no class has test images; check --test-data")
    return SvmResult(
        sum(defined) / len(defined),
        _bootstrap_error(test_scores[:, usable], test_t[:, usable], seed),
        tuple(per_class),
        tuple(decays.tolist()),
        held_out,
        classifier.converged,
        classifier,
    )


def fit(
    x: Tensor,
    targets: Tensor,
    weight_decay: Tensor | float,
    *,
    positive: float = POSITIVE,
    tolerance: float = 5e-5,
    max_iterations: int = 1000,
) -> SvmClassifier:
    """Fit the SVMs of all classes.

    Args:
        x: float ``[N, D]``, not standardized, on any device.
        targets: float ``[N, C]``: 1, -1, or 0 to ignore the image.
        weight_decay: One for all classes or float64 ``[C]``.
        positive: Weight of a class's own images.
        tolerance: See `Problem.minimize`.
        max_iterations: Iterations after which to stop.

    Raises:
        DataError: A feature is NaN or infinite.
    """
    mean, std = moments(x)
    decay = torch.as_tensor(weight_decay, dtype=torch.float64).expand(targets.shape[1])[:, None]
    solution = _problem(Rows(x, targets, mean, std), targets.shape[1], positive).minimize(
        decay, None, tolerance, max_iterations
    )
    weight, bias = _weight_and_bias(solution.theta, x.device)
    return SvmClassifier(weight, bias, mean, std, solution.converged)


def choose_weight_decays(
    x: Tensor, targets: Tensor, grid: Sequence[float], seed: int, positive: float
) -> tuple[Tensor, float | None]:
    """The weight decay with the best average precision over the folds for each class, float64
    ``[C]``, and the mean of these precisions, percent; None if no class could be scored.

    Folds are stratified by the first class of an image. The stronger weight decay if two do equally
    well; a class that cannot be scored in any fold gets the grid's middle.
    """
    mean, std = moments(x)
    path = sorted(grid, reverse=True)
    totals = torch.zeros(len(path), targets.shape[1], dtype=torch.float64)
    counts = torch.zeros_like(totals)
    splits = folds((targets == 1).float().argmax(1), seed, FOLDS)
    search = _problem(
        Rows(x, targets, mean, std), targets.shape[1], positive, [kept for kept, _ in splits]
    )
    theta: Tensor | None = None
    for row, decay in enumerate(path):
        theta = search.minimize(decay, theta, tolerance=2e-3, max_iterations=200).theta
        for part, (_, held) in zip(theta.chunk(FOLDS), splits, strict=True):
            chosen = held.to(x.device)
            held_scores = scores(x[chosen], *_weight_and_bias(part, x.device), mean, std)
            for c, value in enumerate(average_precisions(held_scores, targets[chosen])):
                if value is not None:
                    totals[row, c] += value
                    counts[row, c] += 1
    means = totals / counts.clamp_min(1)
    best = means.argmax(0)  # of equals the first, the strongest
    scored = counts.sum(0) > 0
    best[~scored] = len(path) // 2
    precisions = means.gather(0, best[None])[0, scored]
    held_out = float(precisions.mean()) if len(precisions) else None
    return torch.tensor(path, dtype=torch.float64)[best], held_out


def average_precisions(scores: Tensor, targets: Tensor) -> list[float | None]:
    """Average precision of each class, percent: the mean, over its images, of the precision at
    their rank.

    Args:
        scores: float ``[N, C]``, higher = more likely in the class. Images with equal scores share
            one rank.
        targets: ``[N, C]``: 1, -1, or 0 to ignore the image.

    Returns:
        None for a class without images.
    """
    values: list[float | None] = []
    for column, truth in zip(scores.T.cpu().double(), targets.T.cpu(), strict=True):
        column, truth = column[truth != 0], truth[truth != 0]
        order = column.argsort(descending=True, stable=True)
        hits = (truth[order] == 1).double()
        if not hits.sum():
            values.append(None)
            continue
        ranked = column[order]
        last = torch.ones(len(ranked), dtype=torch.bool)
        last[:-1] = ranked[:-1] != ranked[1:]  # a threshold takes in all images of one score
        recalled = hits.cumsum(0)[last]
        precision = recalled / (torch.arange(len(ranked)) + 1)[last]
        gained = torch.diff(recalled, prepend=recalled.new_zeros(1))
        values.append(100 * float((precision * gained).sum() / hits.sum()))
    return values


def _bootstrap_error(scores: Tensor, targets: Tensor, seed: int) -> float:
    """Deviation of the mean average precision over `BOOTSTRAP` samples of the test images, drawn
    with replacement.
    """
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(BOOTSTRAP):
        rows = torch.randint(len(scores), (len(scores),), generator=generator).to(scores.device)
        defined = [p for p in average_precisions(scores[rows], targets[rows]) if p is not None]
        if defined:
            means.append(statistics.fmean(defined))
    return statistics.pstdev(means) if means else 0.0


def _weight_and_bias(theta: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Contiguous float32 ``[C, D]`` and ``[C]``."""
    return theta[:, :-1].to(device, torch.float32), theta[:, -1].to(device, torch.float32)


def _problem(
    rows: Rows, classes: int, positive: float, parts: Sequence[Tensor] | None = None
) -> Problem:
    def squared_hinge(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of max(0, 1 - target * score)^2 and their gradients; targets 0 are left
        out.
        """
        targets = targets.to(scores)[:, None]
        slack = (1 - targets * scores).clamp_min_(0)
        weighted = slack * torch.where(targets > 0, positive, 1.0) * targets.abs()
        return (weighted * slack).sum(-1), -2 * targets * weighted

    return Problem(rows, classes, squared_hinge, 2.0, parts)
