"""Full-batch L-BFGS solver of regularized linear classifiers on standardized features.

The objective is convex, so the solution depends on the features alone and not on a learning rate or
a number of epochs:

    mean loss of the scores z W^T + b + weight_decay / 2 * ||W||^2        (the bias is free)

`ssltool.probing.linear` and `ssltool.probing.svm` supply the loss. The solver works in coordinates
in which the features are nearly uncorrelated, which takes a third of the iterations.

Features may be memory-mapped: they are then read block by block in every iteration, so a million
images need no million rows in memory.

Shapes: N images, D dimensions, C classes, F problems that are solved together. ``theta`` is
``[F * C, D + 1]``, the weights with the biases as its last column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import DataError

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Scores ``[n, F, C]`` and targets ``[n, ...]`` -> losses ``[n, F]`` and the gradient of each by
its scores, ``[n, F, C]``.
"""

BLOCK = 2048
"""Features decorrelated together; wider ones are cut into blocks of at most this many."""

SAMPLE = 32_768
"""Training images, evenly spread, from which correlations are estimated: they change the path, not
the optimum. Too few miss rarely active features, and the solver takes twice as long."""

EXACT = 1_000_000
"""Feature values up to which float64 is used: few images do not average float32's rounding away."""

IN_MEMORY = 500_000_000
"""Feature values up to which standardized features are kept in memory (2 GB); more are standardized
anew in each iteration.
"""

ROWS_AT_ONCE = 4096
"""Images per matrix product; the parts are summed in float64."""


class Rows:
    """Standardized features and their targets, in blocks of at most ``ROWS_AT_ONCE`` images.

    Args:
        x: float ``[N, D]``, not standardized.
        targets: ``[N, ...]``, on the device of ``x``.
        mean: float32 ``[D]``, see `moments`.
        std: float32 ``[D]``.
        indices: int64 ``[n]``: only these images, in this order.
        exact: Use float64 for few images, whose optimum is then found to 5e-6.
    """

    def __init__(
        self,
        x: Tensor,
        targets: Tensor,
        mean: Tensor,
        std: Tensor,
        indices: Tensor | None = None,
        *,
        exact: bool = True,
    ) -> None:
        self._x, self._targets, self._indices = x, targets, indices
        self._mean, self._std = mean, std
        self.count, self.dim, self.device = (
            len(x if indices is None else indices),
            x.shape[1],
            x.device,
        )
        size = self.count * self.dim
        exact = exact and size <= EXACT and x.device.type != "mps"  # which has no float64
        self.dtype = torch.float64 if exact else torch.float32
        self._in_memory = list(self._blocks()) if size <= IN_MEMORY else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardized rows ``[n, D]`` of ``dtype`` and their targets."""
        return self._blocks() if self._in_memory is None else iter(self._in_memory)

    def sample(self, limit: int) -> Tensor:
        """At most ``limit`` standardized rows, evenly spread, float64 on the CPU."""
        chosen = torch.arange(0, self.count, -(-self.count // limit), device=self.device)
        chosen = chosen if self._indices is None else self._indices[chosen]
        return ((self._x[chosen].float() - self._mean) / self._std).cpu().double()

    def projected(self, basis: Tensor) -> Rows:
        """The rows in other coordinates: z times ``basis`` ``[D, R]``, float64 on the CPU;
        kept in memory.
        """
        z = torch.cat([rows.cpu().double() @ basis for rows, _ in self]).to(
            self.device, torch.float32
        )
        targets = self._targets if self._indices is None else self._targets[self._indices]
        ones = torch.ones(z.shape[1], device=self.device)
        exact = self.dtype == torch.float64
        return Rows(z, targets, torch.zeros_like(ones), ones, exact=exact)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.count, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            block = part if self._indices is None else self._indices[part]
            z = (self._x[block].float() - self._mean).div_(self._std)
            yield z.to(self.dtype), self._targets[block]


@dataclass(frozen=True)
class Solution:
    """Result of the solver.

    Attributes:
        theta: float64 ``[F * C, D + 1]`` on the CPU, for standardized features.
        converged: Whether the optimum was reached, not just the last iteration.
        iterations: Iterations of L-BFGS it took.
    """

    theta: Tensor
    converged: bool
    iterations: int


class Problem:
    """A loss on rows, preconditioned by the covariance of the features; or several such problems
    on parts of the same rows, such as folds, which take little more time together than one alone.

    Args:
        rows: The images.
        classes: C.
        loss: Minimized.
        curvature: Second derivative of one image's loss by a score at 0, averaged over images: it
            scales the coordinates of the solver and does not move the optimum.
        parts: Indices of the images of each problem, int64; all images if not given.
        coarse: The optimum is wanted to three digits, as in a search: the solver then computes in
            float32 and remembers fewer steps, which saves a third of its time.
    """

    def __init__(
        self,
        rows: Rows,
        classes: int,
        loss: Loss,
        curvature: float,
        parts: Sequence[Tensor] | None = None,
        *,
        coarse: bool = False,
    ) -> None:
        self._classes, self._loss, self._curvature = classes, loss, curvature
        self._dtype, self._history = (torch.float32, 10) if coarse else (torch.float64, 30)
        self._weights = _weights(rows, parts)
        self._scores = self._weights.shape[1] * classes
        # The optimum lies in the span of the images: with fewer images than dimensions, their span
        # is enough.
        self._basis: Tensor | None = None
        if rows.count < rows.dim:
            self._basis, variances = _span(rows.sample(rows.count))
            self._rows = rows.projected(self._basis)
            self._covariances = [variances]  # these coordinates are uncorrelated
            return
        self._rows = rows
        blocks = rows.sample(SAMPLE).tensor_split(-(-rows.dim // BLOCK), dim=1)
        self._covariances = [block.T @ block / len(block) for block in blocks]

    def objective(self, theta: Tensor, weight_decay: Tensor | float) -> tuple[float, Tensor]:
        """Mean loss + weight_decay / 2 * ||W||^2, and its gradient.

        Args:
            theta: float64 ``[F * C, D + 1]`` on the CPU.
            weight_decay: Not applied to the bias; one for all classes, or ``[F * C, 1]``.

        Returns:
            The value, summed over the problems, and the gradient, float64 like ``theta``. With
            fewer images than dimensions, both leave out the part of ``theta`` outside of the
            images' span, where the optimum is zero.
        """
        value, gradient = self._objective(self._inside(theta), weight_decay)
        return value, self._outside(gradient)

    def _objective(self, theta: Tensor, weight_decay: Tensor | float) -> tuple[float, Tensor]:
        """The objective in the coordinates of the solver."""
        weight, bias = (
            part.to(self._rows.device, self._rows.dtype) for part in (theta[:, :-1], theta[:, -1])
        )
        total, gradient, start = 0.0, torch.zeros_like(theta), 0
        for z, targets in self._rows:
            weights = self._weights[start : start + len(z)]
            scores = torch.addmm(bias, z, weight.T).view(*weights.shape, self._classes)
            losses, by_score = self._loss(scores, targets)
            total += float((losses.cpu().double() * weights.cpu().double()).sum())
            by_score = by_score.mul_(weights[..., None]).view(len(z), -1)
            gradient[:, :-1] += (by_score.T @ z).cpu()
            gradient[:, -1] += by_score.sum(0).cpu()
            start += len(z)
        gradient[:, :-1] += weight_decay * theta[:, :-1]
        penalty = float((weight_decay * theta[:, :-1].square()).sum()) / 2
        return total + penalty, gradient

    def minimize(
        self,
        weight_decay: Tensor | float,
        start: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> Solution:
        """Find the optimum.

        The state of L-BFGS is small beside the features: it stays on the CPU.

        Args:
            weight_decay: As in `objective`, at least 0.
            start: theta to start from; zeros if not given.
            tolerance: The optimum counts as reached when no part of the gradient, in the
                coordinates of the solver, is larger.
            max_iterations: Iterations after which to stop.
        """
        factors, inverses = (
            [factor.to(self._dtype) for factor in part] for part in self._coordinates(weight_decay)
        )
        transposed = [inverse.T if inverse.dim() > 1 else inverse for inverse in inverses]
        u = torch.zeros(self._scores, self._rows.dim + 1, dtype=self._dtype)
        if start is not None:
            u = _times(self._inside(start).to(self._dtype), factors)
        u.requires_grad_()
        optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
            [u],
            max_iter=max_iterations,
            max_eval=2 * max_iterations,
            tolerance_grad=tolerance,
            tolerance_change=1e-12,
            history_size=self._history,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            value, gradient = self._objective(_times(u.detach(), inverses), weight_decay)
            u.grad = _times(gradient.to(self._dtype), transposed)
            return value

        optimizer.step(closure)
        closure()  # the last point tried need not be the one accepted
        assert u.grad is not None
        converged = bool(u.grad.abs().max() <= tolerance)
        theta = self._outside(_times(u.detach(), inverses).double())
        return Solution(theta, converged, int(optimizer.state[u]["n_iter"]))

    def _inside(self, theta: Tensor) -> Tensor:
        """Theta in the coordinates of the solver."""
        return (
            theta
            if self._basis is None
            else torch.cat([theta[:, :-1] @ self._basis, theta[:, -1:]], dim=1)
        )

    def _outside(self, theta: Tensor) -> Tensor:
        """Theta for the standardized features."""
        return (
            theta
            if self._basis is None
            else torch.cat([theta[:, :-1] @ self._basis.T, theta[:, -1:]], dim=1)
        )

    def _coordinates(self, weight_decay: Tensor | float) -> tuple[list[Tensor], list[Tensor]]:
        """Square matrices, or the diagonals of diagonal ones, and their inverses, one for each
        block of features and the last for the bias: u is theta times the former.

        At theta = 0 the second derivative for each class is curvature * covariance + weight_decay.
        With its Cholesky factor L and theta = u L^-1 it is the identity for u.
        """
        decay = float(
            torch.as_tensor(weight_decay).double().log().mean().exp()
        )  # one for all classes
        factors = []
        for covariance in self._covariances:
            curvature = covariance * self._curvature
            if curvature.dim() == 1:
                factors.append((curvature + max(decay, 1e-8)).sqrt())
                continue
            curvature.diagonal().add_(max(decay, 1e-8))
            factors.append(torch.linalg.cholesky(curvature))
        factors.append(torch.full((1,), self._curvature**0.5, dtype=torch.float64))
        inverses = [
            factor.reciprocal()
            if factor.dim() == 1
            else torch.linalg.solve_triangular(
                factor, torch.eye(len(factor), dtype=factor.dtype), upper=False
            )
            for factor in factors
        ]
        return factors, inverses


def _weights(rows: Rows, parts: Sequence[Tensor] | None) -> Tensor:
    """Weights of the images in the mean loss of each problem, ``[N, F]``."""
    if parts is None:
        return torch.full((rows.count, 1), 1 / rows.count, dtype=rows.dtype, device=rows.device)
    weights = torch.zeros(rows.count, len(parts), dtype=rows.dtype, device=rows.device)
    for column, part in enumerate(parts):
        weights[part.to(rows.device), column] = 1 / len(part)
    return weights


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of each feature, float32 ``[D]``, summed in float64.

    The deviation of a feature that varies only by rounding is infinite: divided by it, the feature
    is 0.

    Args:
        x: float ``[N, D]``.

    Raises:
        DataError: A feature is NaN or infinite.
    """
    parts = torch.split(x, ROWS_AT_ONCE)
    mean = sum(
        (part.cpu().double().sum(0) for part in parts), torch.zeros(x.shape[1], dtype=torch.float64)
    ) / len(x)
    if not mean.isfinite().all():
        raise DataError(
            "some features are NaN or infinite; the weights have diverged: probe an earlier "
            "checkpoint"
        )
    squares = sum(
        ((part.cpu().double() - mean).square().sum(0) for part in parts), torch.zeros_like(mean)
    )
    std = (squares / len(x)).sqrt()
    std[std <= 1e-6 * mean.abs()] = torch.inf
    return mean.to(x.device, torch.float32), std.to(x.device, torch.float32)


def scores(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scores float32 ``[N, C]`` of features ``[N, D]``, not standardized, of a classifier for
    standardized ones.
    """
    parts = [
        ((part.float() - mean) / std) @ weight.T + bias for part in torch.split(x, ROWS_AT_ONCE)
    ]
    return torch.cat(parts)


def _span(z: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal directions ``[D, R]`` in which the rows ``[N, D]`` vary, N below D, and the mean
    squares ``[R]`` of the rows' coordinates in them, which are uncorrelated.
    """
    values, vectors = torch.linalg.eigh(z @ z.T)
    kept = values > 1e-10 * values[-1].clamp_min(1e-300)
    directions: Tensor = (z.T @ vectors[:, kept]) / values[kept].sqrt()
    return directions, values[kept] / len(z)


def _times(theta: Tensor, blocks: list[Tensor]) -> Tensor:
    """``theta`` times the block-diagonal matrix of ``blocks``, matrices or diagonals."""
    parts = theta.split_with_sizes([len(block) for block in blocks], dim=1)
    return torch.cat(
        [
            part * block if block.dim() == 1 else part @ block
            for part, block in zip(parts, blocks, strict=True)
        ],
        dim=1,
    )
