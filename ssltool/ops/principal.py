"""Principal components of vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_components(vectors: Tensor, count: int) -> tuple[Tensor, tuple[float, ...]]:
    """Project vectors on their principal components.

    The largest weight of each component is positive.

    Args:
        vectors: float64 ``[N, D]``.
        count: K, number of components.

    Returns:
        Coordinates ``[N, K]``, 0 along components beyond D; and the fraction of the variance along
        each.
    """
    centered = vectors - vectors.mean(dim=0)
    spread, axes = torch.linalg.eigh(centered.T @ centered)  # ascending
    axes, spread = axes.flip(1)[:, :count].T, spread.flip(0).clamp_min(0)
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    values = vectors.new_zeros(len(vectors), count)
    values[:, : len(axes)] = centered @ axes.T
    shares = spread[:count] / spread.sum().clamp_min(1e-12)
    return values, tuple([*shares.tolist(), *[0.0] * count][:count])
