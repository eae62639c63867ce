"""Audit of contrastive predictive coding: shared and adjacent pixels, color, batch norm.

Hénaff et al. 2020, section 4.1 and appendix: patches that overlap or share colors and edges, and
batch norm, through which patches exchange information, let the task be solved without content.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ssltool.methods.auditing import (
    BASE,
    CHANCE,
    IMAGE_CHANGES,
    IMAGE_COMPARISONS,
    PATCH_CHANGES,
    PATCH_COMPARISONS,
    Comparison,
    Condition,
    ImageChange,
    PatchChange,
    Plan,
    batched,
    constant,
    replaced,
    seeded,
)
from ssltool.methods.cpc import infonce
from ssltool.methods.cpc.context_network import Predictor
from ssltool.ops import grids
from ssltool.ops.per_image_rng import PerImageRNG

if TYPE_CHECKING:
    from ssltool.methods.cpc.task import Cpc

Side = Literal["near", "far"]
"""Of a target, seen from its context."""


def plan(method: Cpc, seed: int) -> Plan:
    """Accuracy of the retrieved patch under interventions, by offset, and by trivial matching."""

    def score(**options: Any) -> Condition:
        hits = _hits(method, seed, **options)
        return lambda images, index: hits(images, index).mean(dim=1)

    by_offset = cache(_hits(method, seed))
    conditions: dict[str, Condition] = {
        BASE: lambda images, index: by_offset(images, index).mean(dim=1),
        CHANCE: _chance(method),
        "far side of targets replaced": score(replaced_side="far"),
        "near side of targets replaced": score(replaced_side="near"),
        **{name: score(change=change) for name, change in PATCH_CHANGES.items()},
        **{name: score(image=change) for name, change in IMAGE_CHANGES.items()},
        **{
            f"offset {k}": partial(_column, by_offset, number)
            for number, k in enumerate(_offsets(method))
        },
        "matched by mean color": _matching(method, seed, _mean_color),
        "matched by facing pixels": _matching(method, seed, _facing),
        "no change": constant(0.0),
        "vector, other patches replaced": _exchange(method, seed),
    }
    comparisons = (
        Comparison(
            "shared or adjacent pixels",
            "cue",
            "far side of targets replaced",
            "near side of targets replaced",
        ),
        Comparison(
            "patches exchange information",
            "cue",
            "vector, other patches replaced",
            "no change",
            "relative change of a vector",
        ),
        *PATCH_COMPARISONS,
        *IMAGE_COMPARISONS,
        Comparison("mean color", "probe", "matched by mean color", CHANCE),
        Comparison("facing pixels", "probe", "matched by facing pixels", CHANCE),
    )
    return Plan("accuracy", "fraction", conditions, comparisons)


def _column(table: Condition, number: int, images: Tensor, index: Tensor) -> Tensor:
    return table(images, index)[:, number]


def _offsets(method: Cpc) -> list[int]:
    """Offsets that the method predicts, in rows."""
    return sorted(map(int, _predictor(method, method.directions[0]).predict))


def _predictor(method: Cpc, direction: grids.Direction) -> Predictor:
    predictor = method.predictors[direction]
    assert isinstance(predictor, Predictor)
    return predictor


def _chance(method: Cpc) -> Condition:
    """1 / N of the batches scored."""

    def score(images: Tensor, index: Tensor) -> Tensor:
        cells = method.grid.count**2
        sampled = min(method.options.sampled, cells)
        count = infonce.candidates(method.options.negatives, len(images), cells, sampled)
        return torch.full((len(images),), 1 / count)

    return batched(score)


def _hits(
    method: Cpc,
    seed: int,
    *,
    change: PatchChange | None = None,
    image: ImageChange | None = None,
    replaced_side: Side | None = None,
) -> Condition:
    """Share of an image's contexts whose target ranks first, by offset: ``[n, K]``."""

    def score(images: Tensor, index: Tensor) -> Tensor:
        images = image(images) if image else images
        view = method.view(images, index, seeded(seed))
        patches = 255 * method.cut(view.image)
        if change is not None:
            patches = change(patches, PerImageRNG(index, seeded(seed + 1)))
        codes = _codes(method, patches)
        hits: dict[int, list[Tensor]] = {}
        for direction in method.directions:
            predictor = _predictor(method, direction)
            targets, predictions = predictor(grids.orient(codes, direction))
            if replaced_side is not None:
                others = _codes(method, _replaced(method, patches, direction, replaced_side))
                targets, _ = predictor(grids.orient(others, direction))
            for k, queries in predictions.items():
                retrieval = infonce.retrieve(
                    queries,
                    targets,
                    k,
                    scale=method.options.logit_scale,
                    negatives=method.options.negatives,
                    sampled=view.sampled,
                )
                first = (retrieval.rank == 0).double().view(len(images), -1)
                hits.setdefault(k, []).append(first.mean(dim=1))
        by_offset = [torch.stack(hits[k]).mean(dim=0) for k in sorted(hits)]
        return torch.stack(by_offset, dim=1)

    return batched(score)


def _codes(method: Cpc, patches: Tensor) -> Tensor:
    """Vectors ``[B, C, G, G]`` of patches float ``[B, G*G, 3, P, P]`` in 0..255."""
    return method.codes(method.standardized(patches / 255))


def _replaced(method: Cpc, patches: Tensor, direction: grids.Direction, side: Side) -> Tensor:
    """Patches of which the rows nearest to the context, or as many of the farthest, come from the
    same cell of another image.

    The rows that context and target share at the smallest offset, none if it is legal, and an
    eighth of the patch beside them.
    """
    size, other = method.grid.patch, patches.roll(1, dims=0)
    shared = max(0, size - min(_offsets(method)) * method.grid.stride)
    width = min(shared + max(1, round(size / 8)), size - 1)
    first = direction in ("down", "right") if side == "near" else direction in ("up", "left")
    part = slice(0, width) if first else slice(size - width, size)
    changed = patches.clone()
    if direction in ("down", "up"):
        changed[..., part, :] = other[..., part, :]
    else:
        changed[..., part] = other[..., part]
    return changed


def _exchange(method: Cpc, seed: int) -> Condition:
    """Relative change of a patch's vector when the other patches of its batch become noise, with
    the statistics of the batch as in training; 0 if every patch is encoded alone.
    """

    def score(images: Tensor, index: Tensor) -> Tensor:
        view = method.view(images, index, seeded(seed))
        patches = 255 * method.cut(view.image)
        noise = 255 * PerImageRNG(index, seeded(seed + 1)).uniform(*patches.shape[1:])
        noise[:, 0] = patches[:, 0]  # the patch that stays
        norms = [m for m in method.encoder.modules() if hasattr(m, "track_running_stats")]
        with ExitStack() as stack:
            for norm in norms:  # statistics of the batch, which are not recorded
                stack.enter_context(replaced(norm, training=True, track_running_stats=False))
            kept, moved = (_codes(method, part)[..., 0, 0] for part in (patches, noise))
        change: Tensor = (moved - kept).norm(dim=1) / kept.norm(dim=1).clamp_min(1e-6)
        return change

    return batched(score)


def _matching(
    method: Cpc, seed: int, distances: Callable[[Tensor, grids.Direction, int], Tensor]
) -> Condition:
    """Share of contexts whose target is the candidate nearest to the patch of the context itself,
    as the network gets them in training. Candidates are the network's, but for that patch.
    """

    def score(images: Tensor, index: Tensor) -> Tensor:
        with replaced(method, training=True):
            view = method.view(images, index, seeded(seed))
        patches = view.patches
        count, hits = method.grid.count, []
        cells = torch.arange(count**2, device=images.device).view(count, count)
        for direction in method.directions:
            k = min(_offsets(method))
            oriented = grids.orient(cells, direction)
            context, target = oriented[:-k].flatten(), oriented[k:].flatten()
            apart = distances(patches, direction, len(images))[:, context]  # [B, M, B * G * G]
            own = torch.arange(len(images), device=images.device)[:, None] * count**2 + target
            allowed = _candidates(method, own, view.sampled, patches.shape[1])
            nearest = apart.masked_fill(~allowed, torch.inf).argmin(dim=2)
            hits.append((nearest == own).double().mean(dim=1))
        return torch.stack(hits).mean(dim=0)

    return batched(score)


def _candidates(method: Cpc, true: Tensor, sampled: Tensor, cells: int) -> Tensor:
    """Which cells of the batch the target is chosen from, bool ``[B, M, B * cells]``.

    Args:
        method: Its option ``negatives`` decides.
        true: int64 ``[B, M]``, numbers of the targets.
        sampled: int64 ``[B, m]``, cells of each image, for ``random``.
        cells: Of an image.
    """
    images = torch.arange(len(true), device=true.device)[:, None]
    every = torch.arange(len(true) * cells, device=true.device)
    same = every // cells == images  # [B, B * cells]
    allowed = {
        "all": torch.ones_like(same),
        "same-image": same,
        "other-images": ~same,
        "random": torch.isin(every, images * cells + sampled).expand_as(same),
    }[method.options.negatives]
    return allowed[:, None] | (every == true[..., None])


def _mean_color(patches: Tensor, direction: grids.Direction, images: int) -> Tensor:
    """Distance of the mean colors of all patches, itself excluded: ``[B, G*G, B * G*G]``."""
    del direction
    means = patches.flatten(3).mean(dim=3).flatten(0, 1)
    return _without_itself(torch.cdist(means, means)).view(images, -1, len(means))


def _facing(patches: Tensor, direction: grids.Direction, images: int) -> Tensor:
    """Distance of the last row of each patch to the first of all others, in the direction."""
    low, high = {
        "down": (patches[..., 0, :], patches[..., -1, :]),
        "up": (patches[..., -1, :], patches[..., 0, :]),
        "right": (patches[..., 0], patches[..., -1]),
        "left": (patches[..., -1], patches[..., 0]),
    }[direction]
    target, context = low.flatten(0, 1).flatten(1), high.flatten(0, 1).flatten(1)
    return _without_itself(torch.cdist(context, target)).view(images, -1, len(target))


def _without_itself(distances: Tensor) -> Tensor:
    return distances.fill_diagonal_(torch.inf)
