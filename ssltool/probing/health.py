"""Label-free measures of a representation's spread, and detection of its collapse.

Shapes: N images, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_IMAGES = 2048
"""Images measured; the values hardly change with more."""

MIN_IMAGES = 8
"""Images below which nothing is said of a collapse: n images span n - 1 directions at most."""

_MIN_RANK = 1.5  # effective rank below which all images lie on a line
_MIN_STD = 1e-3  # std below which all images are one point


class Health(NamedTuple):
    """Spread of a set of features.

    Attributes:
        effective_rank: exp of the entropy of the normalized singular values of the centered
            features, 1..min(N, D) (Roy & Vetterli 2007; RankMe, Garrido et al. 2023): the number
            of directions in use.
        std: Mean over the D dimensions of the unit vectors' standard deviation, times sqrt(D):
            0 for a single point, about 1 when spread over the sphere.
        uniformity: log mean exp(-2 ||x - y||^2) over pairs of unit vectors, -4..0 (Wang & Isola
            2020, eq. 2): lower is more evenly spread.
        alignment: Mean squared distance of the unit vectors of two views of an image, 0..4 (ibid.,
            eq. 1); None without a second view.
        images: N.

    Fewer than two images have no spread: all but the alignment are None.
    """

    effective_rank: float | None
    std: float | None
    uniformity: float | None
    alignment: float | None
    images: int

    @property
    def reason(self) -> str:
        """Why there are no measures; empty if there are."""
        return "" if self.images > 1 else "the spread of one image is not defined"

    @property
    def warning(self) -> str:
        """One line on a collapse; empty if there is none, or too few images to tell."""
        if self.images < MIN_IMAGES or self.std is None or self.effective_rank is None:
            return ""
        if self.std < _MIN_STD:
            return (
                f"the features of all images are nearly the same (std {self.std:.2g}): the "
                "encoder has collapsed"
            )
        if self.effective_rank < _MIN_RANK:
            return (
                "the features vary in nearly one direction only (effective rank "
                f"{self.effective_rank:.2f}): the encoder has collapsed, or is about to"
            )
        return ""


@torch.no_grad()
def health(features: Tensor, views: Tensor | None = None) -> Health:
    """Measure the spread of features.

    Args:
        features: float ``[N, D]``, N at least 1; of more than `MAX_IMAGES` an evenly spread part
            is used.
        views: Features of a second view of the same images, such as mirrored, float ``[N, D]``.
    """
    step = -(-len(features) // MAX_IMAGES)
    x = features[::step].cpu().double()
    unit = F.normalize(x, dim=1)
    alignment = None
    if views is not None:
        second = F.normalize(views[::step].cpu().double(), dim=1)
        alignment = float((unit - second).square().sum(1).mean())
    if len(x) < 2:
        return Health(None, None, None, alignment, len(x))
    return Health(
        effective_rank=_effective_rank(x),
        std=float(unit.std(0, correction=0).mean()) * x.shape[1] ** 0.5,
        uniformity=float((-2 * torch.pdist(unit).square()).exp().mean().log()),
        alignment=alignment,
        images=len(x),
    )


def _effective_rank(x: Tensor) -> float:
    """Exp of the entropy of the normalized singular values of the centered rows ``[N, D]``."""
    centered = x - x.mean(0)
    if not centered.any():
        return 1.0
    spectrum = torch.linalg.svdvals(centered)
    spectrum = spectrum / spectrum.sum()
    entropy = -(spectrum * spectrum.clamp_min(1e-300).log()).sum()
    return float(entropy.exp())
