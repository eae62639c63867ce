"""Is a representation in good health? Numbers that need no labels, and a warning when it has
collapsed.

Shapes: N images, D numbers per image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 2048
"""Images looked at: the numbers hardly move beyond."""

_NEARLY_ONE = 1.5  # effective rank below which all images lie on a line
_SAME = 1e-3  # mean distance of unit vectors from their mean below which all images are one point


class Health(NamedTuple):
    """What features look like from outside.

    Attributes:
        effective_rank: exp of the entropy of the normalized singular values of the centered
            features, 1..min(N, D) (Roy & Vetterli 2007; RankMe, Garrido et al. 2023): how many
            directions are in use.
        std: Mean over the D numbers of the deviation of the unit vectors, times sqrt(D): 0 = one
            point, about 1 = spread over the sphere.
        uniformity: log mean exp(-2 ||x - y||^2) over pairs of unit vectors, -4..0 (Wang & Isola
            2020, eq. 2): lower = more evenly spread.
        alignment: Mean squared distance of the unit vectors of two views of an image, 0..4 (there,
            eq. 1); None if no second view was given.
    """

    effective_rank: float
    std: float
    uniformity: float
    alignment: float | None

    @property
    def warning(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        if self.std < _SAME:
            return f"the features of all images are nearly the same (std {self.std:.2g}): the encoder has collapsed"
        if self.effective_rank < _NEARLY_ONE:
            return (
                "the features vary in nearly one direction only (effective rank "
                f"{self.effective_rank:.2f}): "
                "the encoder has collapsed, or is about to"
            )
        return ""


@torch.no_grad()
def health(features: Tensor, views: Tensor | None = None) -> Health:
    """Measure features.

    Args:
        features: float ``[N, D]``, N at least 2; of more than `MOST` an even part is used.
        views: The same images seen otherwise (mirrored, say), float ``[N, D]``.
    """
    step = -(-len(features) // MOST)
    x = features[::step].cpu().double()
    centered = x - x.mean(0)
    share = torch.linalg.svdvals(centered)
    share = share / share.sum().clamp_min(1e-300)
    entropy = -(share * share.clamp_min(1e-300).log()).sum()
    unit = F.normalize(x, dim=1)
    apart = torch.pdist(unit).square()
    aligned = None
    if views is not None:
        aligned = float(
            (unit - F.normalize(views[::step].cpu().double(), dim=1)).square().sum(1).mean()
        )
    return Health(
        effective_rank=float(entropy.exp()) if float(centered.abs().max()) > 0 else 1.0,
        std=float(unit.std(0, correction=0).mean()) * x.shape[1] ** 0.5,
        uniformity=float((-2 * apart).exp().mean().log()),
        alignment=aligned,
    )
