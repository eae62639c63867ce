"""Means of scores of images, paired differences and their shares, with standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A mean over images.

    Attributes:
        value: The mean.
        error: Its standard error.
    """

    value: float
    error: float

    @property
    def is_positive(self) -> bool:
        """Whether it is more than three standard errors above zero."""
        return self.value > 3 * self.error


def mean(scores: Tensor) -> Estimate:
    """Mean of float64 ``[n]`` and s / sqrt(n), with s the sample deviation; NaN is left out."""
    values = scores[scores.isfinite()]
    if len(values) < 2:
        return Estimate(float(values.sum()), math.inf)
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def half_an_image(shares: Tensor) -> float:
    """Standard error of shares ``[n]`` that are all 0 or all 1, NaN left out; 0 for others.

    They show no spread however few they are: half an image is taken to differ, as for the accuracy
    of a probe.
    """
    values = shares[shares.isfinite()]
    if not len(values) or not ((values == 0).all() or (values == 1).all()):
        return 0.0
    p = 0.5 / len(values)
    return math.sqrt(p * (1 - p) / len(values))


def share(part: Tensor, whole: Tensor) -> Estimate | None:
    """Ratio of the means of two paired differences, ``[n]`` each, by the delta method.

    With R = mean(p) / mean(w) the standard error is that of the mean of (p - R w) / mean(w). None
    if the whole is not above zero by three standard errors.
    """
    both = part.isfinite() & whole.isfinite()
    part, whole = part[both], whole[both]
    total = mean(whole)
    if not total.is_positive:
        return None
    ratio = mean(part).value / total.value
    return Estimate(ratio, mean((part - ratio * whole) / torch.tensor(total.value)).error)
