"""Ridge regression in closed form, with the penalty chosen by generalized cross-validation."""

from __future__ import annotations

import torch
from torch import Tensor

_PENALTIES = tuple(10.0**power for power in range(-5, 3))  # times the number of rows


def ridge(x: Tensor, y: Tensor, held_out: Tensor) -> Tensor:
    """Fit a linear map on rows and apply it to others.

    Features are standardized. The penalty minimizes n |y - y'|^2 / (n - df)^2, the generalized
    cross-validation error of the rows the map is fitted on (Golub, Heath & Wahba 1979).

    Args:
        x: float ``[n, D]``.
        y: float ``[n, T]``.
        held_out: float ``[m, D]``.

    Returns:
        Predictions float64 ``[m, T]`` of the rows held out.
    """
    x, y, held_out = (part.double() for part in (x, y, held_out))
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(std > 1e-8, 1 / std.clamp_min(1e-8), 0.0)
    z, center = (x - mean) * scale, y.mean(dim=0)
    u, s, v = torch.linalg.svd(z, full_matrices=False)
    along = u.T @ (y - center)
    n = len(x)
    best, chosen = torch.inf, torch.zeros_like(s)
    for penalty in _PENALTIES:
        shrinkage = s**2 / (s**2 + penalty * n)
        rest = y - center - u @ (shrinkage[:, None] * along)
        freedom = max(n - 1 - float(shrinkage.sum()), 1e-9)
        error = n * float(rest.square().sum()) / freedom**2
        if error < best:
            best, chosen = error, s / (s**2 + penalty * n)
    weight = v.T @ (chosen[:, None] * along)
    predicted: Tensor = (held_out - mean) * scale @ weight + center
    return predicted
