"""Which images keep their label when only some labels may be used."""

from __future__ import annotations

import torch
from torch import Tensor


def subset(
    labels: Tensor, seed: int, *, share: float | None = None, shots: int | None = None
) -> Tensor:
    """Some images of every class, drawn once for all encoders that are compared.

    Of a class with n images ``round(share * n)`` are taken, at least one, or ``shots``, at most n.
    With one seed the images of a smaller subset are among those of a larger one, so that a curve
    over labels only ever adds some.

    Args:
        labels: int64 ``[N]``, the class of each image.
        seed: Decides which images.
        share: Above 0, at most 1.
        shots: Images of each class, at least 1; give this or ``share``.

    Returns:
        Indices int64 on the CPU, shuffled.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for c in torch.unique(labels):
        members = shuffled[labels[shuffled] == c]
        wanted = shots if share is None else max(1, round(share * len(members)))
        taken[members[:wanted]] = True
    return shuffled[taken[shuffled]]
