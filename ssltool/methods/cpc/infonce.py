"""InfoNCE on a grid of patches: cross-entropy of the target against all candidates.

van den Oord, Li & Vinyals 2018, equation 4; Hénaff et al. 2020, equations 1 to 3: the cross-entropy
of the true target against all candidates, with dot products as scores.

Letters: B images, R rows and G columns of the grid, T dimension of the vectors, k offset in rows,
M = B*(R-k)*G contexts, N candidates of one context. Cell (i, j) of image b has the number
b*R*G + i*G + j.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ssltool.methods.cpc.options import Negatives

BUDGET = 2**28
"""Bytes of scores held at once; more are computed in parts, and again for the gradient."""


class Retrieval(NamedTuple):
    """Retrieval of each context's target.

    Attributes:
        loss: float ``[M]``, cross-entropy in nats; ln N at chance level.
        rank: int64 ``[M]``, candidates that score at least as high as the true one; 0 = it is the
            best.
        best: int64 ``[M]``, number of the cell that scores highest.
    """

    loss: Tensor
    rank: Tensor
    best: Tensor


def labels(
    images: int, rows: int, columns: int, offset: int, device: torch.device | None = None
) -> Tensor:
    """Number of the true cell of every context, int64 ``[B, (R-k)*G]``: context (b, i, j) has
    the target (b, i + k, j).
    """
    cells = torch.arange(offset * columns, rows * columns, device=device)
    return torch.arange(images, device=device)[:, None] * rows * columns + cells


def candidates(negatives: Negatives, images: int, cells: int, sampled: int) -> int:
    """N, the true one included, for B images of so many cells, of which ``sampled`` each are
    candidates in mode ``random``.
    """
    if negatives == "random":
        return images * sampled + 1
    return {
        "all": images * cells,
        "other-images": (images - 1) * cells + 1,
        "same-image": cells,
    }[negatives]


def retrieve(
    queries: Tensor,
    targets: Tensor,
    offset: int,
    *,
    scale: float = 0.1,
    negatives: Negatives = "all",
    sampled: Tensor | None = None,
    first: int = 0,
    budget: int = BUDGET,
) -> Retrieval:
    """Score every prediction against its candidates; all positions at once, in parts of whole
    images.

    Args:
        queries: float ``[b, R-k, G, T]``, predictions of the row k below, for all B images or some
            of them.
        targets: float ``[B, R, G, T]``.
        offset: k.
        scale: Factor on the dot products.
        negatives: ``all`` cells of the batch; those of ``other-images``, of the ``same-image``, or
            a ``random`` few; always with the true one, and never with it twice.
        sampled: int64 ``[B, m]``, the cells 0..R*G-1 of each image that are candidates of all
            contexts, for ``random``.
        first: Which of the B images the first query is of.
        budget: Bytes of scores held at once.

    Raises:
        ValueError: The grid has no row at this offset, or ``queries`` has other rows than it
            should.
    """
    images, rows, columns, width = targets.shape
    asking = len(queries)
    fitting = queries.shape[1:] == (rows - offset, columns, width) and 0 <= first <= images - asking
    if not 0 < offset < rows or not fitting:
        raise ValueError(
            f"no predictions {list(queries.shape)} at offset {offset} for targets "
            f"{list(targets.shape)}"
        )
    dtype = torch.promote_types(
        queries.dtype, torch.float32
    )  # eight bits of a score are too few to rank thousands
    asked = queries.to(dtype).flatten(1, 2) * scale  # [b, (R-k)*G, T]
    pool = targets.to(dtype).flatten(1, 2)  # [B, R*G, T]
    cells = rows * columns
    true = labels(asking, rows, columns, offset, targets.device) + first * cells
    chosen = None
    if negatives == "random":
        if sampled is None:
            raise ValueError("negatives 'random' need the sampled cells")
        chosen = (torch.arange(images, device=true.device)[:, None] * cells + sampled).flatten()
    held = candidates(negatives, images, cells, 0 if sampled is None else sampled.shape[1])
    at_once = max(1, budget // (asked.shape[1] * held * asked.element_size()))
    parts = []
    with torch.autocast(targets.device.type, enabled=False):
        for start in range(0, asking, at_once):
            part = slice(start, start + at_once)
            own = pool[first : first + asking][part]
            given = (
                asked[part],
                true[part],
                own if negatives == "same-image" else pool,
                negatives,
                chosen,
            )
            if at_once >= asking:
                parts.append(_score(*given))
            else:
                parts.append(
                    checkpoint(_score, *given, use_reentrant=False, preserve_rng_state=False)
                )
    return Retrieval(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _score(
    asked: Tensor, true: Tensor, pool: Tensor, negatives: Negatives, chosen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, rank and best ``[b*n]`` of the contexts of some images.

    Args:
        asked: ``[b, n, T]``.
        true: ``[b, n]``, numbers of the true cells.
        pool: ``[B, R*G, T]``; of the same b images for ``same-image``.
        negatives: The mode.
        chosen: ``[B*m]``, numbers of the cells sampled, for ``random``.
    """
    cells = pool.shape[1]
    label = true.flatten()
    column = label  # the true cell's column
    if negatives == "same-image":
        column = label % cells
        logits = (asked @ pool.transpose(1, 2)).flatten(0, 1)
    elif chosen is not None:
        flat, queries = pool.flatten(0, 1), asked.flatten(0, 1)
        # The true cell is the last column; where it is sampled as well it must not be its own
        # negative.
        own = (queries * flat[label]).sum(dim=1, keepdim=True)
        sampled_logits = (queries @ flat[chosen].T).masked_fill(chosen == label[:, None], -math.inf)
        logits, column = (
            torch.cat([sampled_logits, own], dim=1),
            torch.full_like(label, len(chosen)),
        )
    else:
        logits = asked.flatten(0, 1) @ pool.flatten(0, 1).T
        if negatives == "other-images":
            cell = torch.arange(logits.shape[1], device=label.device)
            own_image = cell // cells == label[:, None] // cells
            logits = logits.masked_fill(own_image & (cell != label[:, None]), -math.inf)
    loss = F.cross_entropy(logits, column, reduction="none")
    with torch.no_grad():
        rank = (logits >= logits.gather(1, column[:, None])).sum(dim=1) - 1
        best = logits.argmax(dim=1)
        if negatives == "same-image":
            best = label - column + best
        elif chosen is not None:
            best = torch.where(best == column, label, chosen[best.clamp_max(len(chosen) - 1)])
    return loss, rank, best
