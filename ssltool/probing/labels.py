"""Which pictures keep their label when only some labels may be used."""

from __future__ import annotations

import torch
from torch import Tensor


def subset(labels: Tensor, share: float, seed: int) -> Tensor:
    """A share of every class, drawn once for all encoders that are compared.

    Of a class with n pictures ``round(share * n)`` are taken, at least one. With one seed the pictures of a smaller
    share are among those of a larger one, so that a curve over shares only ever adds labels.

    Args:
        labels: int64 ``[N]``, the class of each picture.
        share: Above 0, at most 1.
        seed: Decides which pictures.

    Returns:
        Indices int64 on the CPU, shuffled.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for c in torch.unique(labels):
        members = shuffled[labels[shuffled] == c]
        taken[members[: max(1, round(share * len(members)))]] = True
    return shuffled[taken[shuffled]]
