"""Spaces in which nearest neighbors are searched: as the features are, centered, or whitened.

Features after a rectifier are positive: all vectors share a large mean, cosines are close to 1, and
a few directions of large variance decide who is near. A linear classifier rescales them; a
neighbor search does not. Centering removes the mean, whitening also gives every direction of the
training features the same variance.

Shapes: N training images, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssltool.probing.convex import ROWS_AT_ONCE, moments
from ssltool.probing.options import KnnSpace

SHRINKAGE = 0.01
"""Added to every variance before whitening, as a fraction of their mean: directions of rounding
errors stay small.
"""


def space_of(train_x: Tensor, space: KnnSpace) -> Callable[[Tensor], Tensor]:
    """The map into a space, determined by the training features alone and not by their labels.

    Args:
        train_x: float ``[N, D]``.
        space: ``"cosine"`` leaves the features as they are, as in Wu et al. 2018, section 3.4.

    Returns:
        A function of features float ``[n, D]`` on the same device.

    Raises:
        DataError: A feature is NaN or infinite.
    """
    if space == "cosine":
        return lambda x: x
    mean = moments(train_x)[0].to(train_x.device)
    if space == "centered":
        return lambda x: x.float() - mean
    rotation = whitening(train_x, mean)
    return lambda x: (x.float() - mean) @ rotation


def whitening(train_x: Tensor, mean: Tensor) -> Tensor:
    """Matrix float32 ``[D, D]`` that gives centered features unit covariance, up to `SHRINKAGE`.

    Args:
        train_x: float ``[N, D]``.
        mean: float32 ``[D]``, their mean.
    """
    covariance = torch.zeros(train_x.shape[1], train_x.shape[1], dtype=torch.float64)
    for part in torch.split(train_x, ROWS_AT_ONCE):
        centered = (part.float() - mean).cpu().double()
        covariance += centered.T @ centered
    variances, axes = torch.linalg.eigh(covariance / len(train_x))
    variances = variances.clamp_min(0)
    floor = SHRINKAGE * variances.mean() or 1.0  # constant features stay as they are
    scaled: Tensor = axes * (variances + floor).rsqrt()
    return scaled.float().to(train_x.device)
