"""Audit of context prediction: edges, chromatic offset, sharpness, and the paper's location test.

Doersch, Gupta & Efros 2015, sections 3.1 and 4.2: a network that is given single patches tells
where in the image they lie, from lateral chromatic aberration; with the location of both patches
the pretext task is solved.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ssltool.methods.auditing import (
    BASE,
    BORDER_ELSEWHERE,
    BORDER_IN_PLACE,
    CHANCE,
    EDGES,
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
    probe,
    regression,
    replaced,
    seeded,
    training_view,
)
from ssltool.ops import interventions, low_level
from ssltool.ops.patches import cut
from ssltool.ops.per_image_rng import PerImageRNG

if TYPE_CHECKING:
    from ssltool.methods.context_prediction.task import (
        ContextPrediction,
        ContextPredictionView,
    )

Border = Literal["in place", "elsewhere"]
_ROUNDS = 2  # draws of the evaluation's four pairs


def plan(method: ContextPrediction, seed: int) -> Plan:
    """Accuracy of the relative position under interventions on patches; location tests; probes."""
    score = partial(_condition, method, seed)
    located = partial(_location, method, seed)
    conditions: dict[str, Condition] = {
        BASE: score(),
        BORDER_IN_PLACE: score(border="in place"),
        BORDER_ELSEWHERE: score(border="elsewhere"),
        CHANCE: constant(1 / 8),
        **{name: score(change=change) for name, change in PATCH_CHANGES.items()},
        **{name: score(image=change) for name, change in IMAGE_CHANGES.items()},
        "position by border pixels": _probe(method, seed, low_level.border_differences),
        "position by mean color": _probe(method, seed, partial(_both, low_level.color_moments)),
        "position by channel offsets": _probe(
            method, seed, partial(_both, low_level.channel_offsets)
        ),
        "no location": constant(0.0),
        "location by the encoder": located(),
        "location, color fringes removed": located(change=PATCH_CHANGES["color fringes removed"]),
    }
    comparisons = [EDGES, *PATCH_COMPARISONS, *IMAGE_COMPARISONS]
    if method.sizes.gap:
        without = method.sizes._replace(gap=0, jitter=0)
        conditions["no gap"] = score(sizes=without)
        comparisons.append(Comparison("gap off", "guard", "no gap", BASE))
    if method.color_guard != "none":
        conditions["no color guard"] = score(color_guard="none")
        conditions["location, no color guard"] = located(color_guard="none")
        comparisons += [
            Comparison("color guard off", "guard", "no color guard", BASE),
            Comparison(
                "location, color guard off",
                "guard",
                "location, no color guard",
                "location by the encoder",
                "R^2",
            ),
        ]
    comparisons += [
        Comparison(
            "location by chromatic offset",
            "cue",
            "location by the encoder",
            "location, color fringes removed",
            "R^2",
            chromatic=True,
        ),
        Comparison("absolute location", "probe", "location by the encoder", "no location", "R^2"),
        Comparison("border pixels", "probe", "position by border pixels", CHANCE),
        Comparison("mean color", "probe", "position by mean color", CHANCE),
        Comparison(
            "chromatic offset", "probe", "position by channel offsets", CHANCE, chromatic=True
        ),
    ]
    return Plan("accuracy", "fraction", conditions, comparisons)


def _changed(
    method: ContextPrediction,
    seed: int,
    images: Tensor,
    index: Tensor,
    change: PatchChange | None,
    border: Border | None = None,
) -> ContextPredictionView:
    """The evaluation's view, with an intervention on its patches before the guards; borders come
    from the next image of the batch, in the same place or in that of the next patch.
    """
    view = method.view(images, index, seeded(seed))
    if change is None and border is None:
        return view
    patches = view.raw.float()
    if border is not None:
        corner = view.corner if border == "in place" else view.corner.roll(1, dims=1)
        others = images.roll(1, dims=0)
        donors = cut(others, corner[..., 0], corner[..., 1], method.sizes.patch).float()
        patches = interventions.replace_border(patches, donors)
    if change is not None:
        patches = change(patches, PerImageRNG(index, seeded(seed + 1)))
    noise = PerImageRNG(index, seeded(seed + 2))
    return view._replace(patches=method.network_input(noise, patches))


def _condition(
    method: ContextPrediction,
    seed: int,
    *,
    change: PatchChange | None = None,
    image: ImageChange | None = None,
    border: Border | None = None,
    **attributes: object,
) -> Condition:
    """Share of an image's pairs whose relative position is recognized."""

    def score(images: Tensor, index: Tensor) -> Tensor:
        images = image(images) if image else images
        correct = []
        with replaced(method, **attributes):
            for draw in range(_ROUNDS):
                view = _changed(method, seed + 10 * draw, images, index, change, border)
                logits = method.head(method.vectors(view), view.first, view.second)
                predicted = logits.argmax(dim=1).view_as(view.target)
                correct.append((predicted == view.target).double().mean(dim=1))
        return torch.stack(correct).mean(dim=0)

    return batched(score)


def _location(
    method: ContextPrediction,
    seed: int,
    *,
    change: PatchChange | None = None,
    **attributes: object,
) -> Condition:
    """R^2 of the row and column of single patches, by ridge regression on the encoder's vectors."""

    @batched
    def features(images: Tensor, index: Tensor) -> Tensor:
        with replaced(method, **attributes):
            return method.vectors(_changed(method, seed, images, index, change))

    @batched
    def corners(images: Tensor, index: Tensor) -> Tensor:
        return method.view(images, index, seeded(seed)).corner

    return lambda images, index: regression(features(images, index), corners(images, index))


def _probe(method: ContextPrediction, seed: int, statistic: low_level.PairStatistic) -> Condition:
    """The relative position, from statistics of the two patches as the network gets them in
    training, but for balanced positions.
    """
    balanced = {"sampler": "pair", "pairs": 8, "pixels_min": None, "flip": 0.0}

    def view(images: Tensor, index: Tensor) -> ContextPredictionView:
        with training_view(method, **balanced):
            return method.view(images, index, seeded(seed))

    @batched
    def features(images: Tensor, index: Tensor) -> Tensor:
        drawn = view(images, index)
        rows = torch.arange(len(images), device=images.device)[:, None]
        first, second = (drawn.patches[rows, which] for which in (drawn.first, drawn.second))
        return statistic(first, second)

    @batched
    def target(images: Tensor, index: Tensor) -> Tensor:
        return view(images, index).target

    return lambda images, index: probe(features(images, index), target(images, index).long(), 8)


def _both(statistic: low_level.Statistic, first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([statistic(first), statistic(second)], dim=-1)
