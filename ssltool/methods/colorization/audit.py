"""Audit of colorization: how much of the prediction is one color for all, or read from lightness.

Zhang, Isola & Efros 2016, section 2: the safe answers are the average color and the most common
one; a table from lightness to color is the next. None of them sees an object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.auditing import (
    BASE,
    CHANCE,
    IMAGE_CHANGES,
    Comparison,
    Condition,
    ImageChange,
    Plan,
    batched,
    seeded,
)
from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.prior import sample_points
from ssltool.plotting.units import Unit

if TYPE_CHECKING:
    from ssltool.methods.colorization.task import Colorization, ColorizationView

_LEVELS = 16  # of the lightness
_SCALE = 110.0  # of a and b, as in the loss

Answer = Callable[[Tensor, Tensor], Tensor]
"""Predictions ``[B, Q or 2, t, t]`` and levels of lightness int64 ``[B, t, t]`` -> predictions."""


def plan(method: Colorization, seed: int) -> Plan:
    """Error of the prediction beside those of trivial answers, fitted on the other images."""
    changes = {name: IMAGE_CHANGES[name] for name in ("blurred", "JPEG-recompressed")}
    conditions: dict[str, Condition] = {
        BASE: _condition(method, seed),
        CHANCE: _fitted(method, seed, levels=1),
        "color of the lightness": _fitted(method, seed, levels=_LEVELS),
        "prediction averaged over the image": _condition(method, seed, answer=_averaged),
        **{name: _condition(method, seed, image=change) for name, change in changes.items()},
    }
    comparisons = (
        Comparison("lightness of the pixel alone", "answer", "color of the lightness", CHANCE),
        Comparison(
            "one color for the image", "answer", "prediction averaged over the image", CHANCE
        ),
        Comparison("pixel noise", "cue", BASE, "JPEG-recompressed"),
        Comparison("fine detail", "content", BASE, "blurred"),
    )
    return Plan(*_metric(method), conditions, comparisons, error=True)


def _metric(method: Colorization) -> tuple[str, Unit]:
    classes = method.options.loss == "classification"
    return ("weighted cross-entropy", "nats") if classes else ("squared error of a, b / 110", "")


def _views(method: Colorization, seed: int, images: Tensor, index: Tensor) -> ColorizationView:
    return method.view(images, index, seeded(seed))


def _levels(view: ColorizationView, side: int, count: int) -> Tensor:
    """Lightness at each location of the target, in ``count`` levels: int64 ``[B, t, t]``."""
    light = sample_points(view.lightness, view.lightness.shape[-1] // side or 1)[:, 0]
    return ((light + 1) / 2 * count).long().clamp(0, count - 1)


def _error(method: Colorization, predicted: Tensor, view: ColorizationView) -> Tensor:
    """The method's own error of each image, float ``[B]``; NaN for gray ones."""
    if method.options.loss == "euclidean":
        cost = (predicted - view.ab / _SCALE).square().sum(dim=1) / 2
    else:
        cost = ab_bins.soft_cross_entropy(predicted, view.target)
        cost = cost * method.weights[view.target.nearest]
    return torch.where(view.colored, cost.mean(dim=(1, 2)), torch.nan)


def _condition(
    method: Colorization,
    seed: int,
    *,
    image: ImageChange | None = None,
    answer: Callable[[Colorization, Tensor], Tensor] | None = None,
) -> Condition:
    """Error of the network's prediction; ``image`` changes its input and not the target."""

    def score(images: Tensor, index: Tensor) -> Tensor:
        view = _views(method, seed, images, index)
        lightness = view.lightness
        if image is not None:
            lightness = _views(method, seed, image(images), index).lightness
        predicted = method.predict(lightness, view.ab.shape[-1])
        return _error(method, answer(method, predicted) if answer else predicted, view)

    return batched(score)


def _averaged(method: Colorization, predicted: Tensor) -> Tensor:
    """The same prediction at all locations: the mean over the image."""
    if method.options.loss == "euclidean":
        return predicted.mean(dim=(2, 3), keepdim=True).expand_as(predicted)
    shares = predicted.softmax(dim=1).mean(dim=(2, 3), keepdim=True)
    return shares.clamp_min(1e-12).log().expand_as(predicted)


def _fitted(method: Colorization, seed: int, levels: int) -> Condition:
    """Error of the best answer that knows the level of lightness alone, fitted on one half of the
    images and scored on the other, either way; with one level the best constant answer.
    """

    def score(images: Tensor, index: Tensor) -> Tensor:
        scores = torch.empty(len(images), dtype=torch.float64)
        for fitted, scored in ((0, 1), (1, 0)):
            answers = _best_answers(method, seed, images[fitted::2], index[fitted::2], levels)
            errors = batched(partial(_table_error, method, seed, answers))
            scores[scored::2] = errors(images[scored::2], index[scored::2])
        return scores

    return score


def _table_error(
    method: Colorization, seed: int, answers: Tensor, images: Tensor, index: Tensor
) -> Tensor:
    """Error of the answers ``[levels, Q or 2]`` to the levels of lightness."""
    view = _views(method, seed, images, index)
    level = _levels(view, view.ab.shape[-1], len(answers))
    return _error(method, answers[level].movedim(-1, 1), view)


def _best_answers(
    method: Colorization, seed: int, images: Tensor, index: Tensor, levels: int
) -> Tensor:
    """For each level of lightness the answer of least error: logits of the weighted distribution of
    the bins, or the mean a, b; float ``[levels, Q or 2]``.
    """
    classes = method.options.loss == "classification"
    width = len(method.centers) if classes else 2
    total = torch.zeros(levels, width, device=images.device)
    count = torch.zeros(levels, device=images.device)
    for part in zip(torch.split(images, 64), torch.split(index, 64), strict=True):
        view = _views(method, seed, *part)
        level = _levels(view, view.ab.shape[-1], levels)[view.colored].flatten()
        if classes:
            weight = method.weights[view.target.nearest[view.colored]].flatten()
            bins = view.bins[view.colored].flatten(0, 2)
            shares = view.shares[view.colored].flatten(0, 2) * weight[:, None]
            cells = (level[:, None] * width + bins).flatten()
            total.view(-1).index_add_(0, cells, shares.flatten())
        else:
            ab = view.ab[view.colored].movedim(1, -1).flatten(0, 2) / _SCALE
            total.index_add_(0, level, ab)
        count.index_add_(0, level, torch.ones_like(level, dtype=count.dtype))
    if not classes:
        return total / count.clamp_min(1)[:, None]
    overall = total.sum(dim=0) / total.sum().clamp_min(1e-9)
    # Rare levels lean on all: a tenth of a pixel's weight and the whole distribution in its place.
    smoothed = total + 10 * (overall + 1e-6)
    return (smoothed / smoothed.sum(dim=1, keepdim=True)).log()
