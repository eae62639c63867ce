"""Audit of context encoders: how much of an inpainted hole is interpolation from its border.

Pathak et al. 2016, section 3.3: with a hole of fixed shape the features latch onto its border;
random regions are the guard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

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
from ssltool.methods.context_encoder import inpainting
from ssltool.ops.interventions import blur

if TYPE_CHECKING:
    from ssltool.methods.context_encoder.task import ContextEncoder, ContextEncoderView

Filling = Callable[["ContextEncoderView"], Tensor]
"""A view -> images ``[B, C, S, S]`` in 0..1, of which the hole counts."""


def plan(method: ContextEncoder, seed: int) -> Plan:
    """Squared error over the hole beside those of trivial answers."""
    changes = {name: IMAGE_CHANGES[name] for name in ("gray", "blurred", "JPEG-recompressed")}
    fillings: dict[str, Filling] = {
        BASE: method.inpaint,
        CHANCE: method.mean_color,
        "interpolation from the border": method.interpolated,
        "blur of what is visible": _blurred,
        "mean color of what is visible": _mean,
        "inpainted, border alone visible": lambda view: method.inpaint(_border_alone(view)),
    }
    conditions: dict[str, Condition] = {
        **{name: _condition(method, seed, filling) for name, filling in fillings.items()},
        **{
            name: _condition(method, seed, method.inpaint, change)
            for name, change in changes.items()
        },
    }
    comparisons = (
        Comparison("interpolation", "answer", "interpolation from the border", CHANCE),
        Comparison("blur", "answer", "blur of what is visible", CHANCE),
        Comparison("mean color", "answer", "mean color of what is visible", CHANCE),
        Comparison("border of the hole", "answer", "inpainted, border alone visible", CHANCE),
        Comparison("pixel noise", "cue", BASE, "JPEG-recompressed"),
        Comparison("color", "content", BASE, "gray", chromatic=True),
        Comparison("fine detail", "content", BASE, "blurred"),
    )
    return Plan("squared error over the hole", "", conditions, comparisons, error=True)


def _condition(
    method: ContextEncoder, seed: int, filling: Filling, image: ImageChange | None = None
) -> Condition:
    """Mean squared error over the hole; ``image`` changes what is visible and not the truth."""

    def score(images: Tensor, index: Tensor) -> Tensor:
        view = method.view(images, index, seeded(seed))
        truth = view.image
        if image is not None:
            view = method.view(image(images), index, seeded(seed))
        return inpainting.errors(filling(view), truth, view.mask)[1]

    return batched(score)


def _mean(view: ContextEncoderView) -> Tensor:
    """The mean color of the visible pixels everywhere."""
    visible = (~view.mask).to(view.image.dtype)
    count = visible.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    return ((view.image * visible).sum(dim=(2, 3), keepdim=True) / count).expand_as(view.image)


def _blurred(view: ContextEncoderView) -> Tensor:
    """The visible pixels averaged with Gaussian weights, of an eighth of the side."""
    visible = (~view.mask).to(view.image.dtype)
    sigma = view.image.shape[-1] / 8
    weight = blur(visible, sigma)
    filled = blur(view.image * visible, sigma) / weight.clamp_min(1e-6)
    return torch.where(weight > 1e-3, filled, _mean(view))


def _border_alone(view: ContextEncoderView) -> ContextEncoderView:
    """A view of which only a band around the hole, a sixteenth of the side wide, is visible."""
    width = max(2, round(view.image.shape[-1] / 16))
    hole = view.mask.to(view.inputs.dtype)
    near = F.max_pool2d(hole, kernel_size=2 * width + 1, stride=1, padding=width)
    return view._replace(inputs=view.inputs * near)
