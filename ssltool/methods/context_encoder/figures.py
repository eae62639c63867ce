"""Figures of context encoders: masked images, inpainted images, error by distance to the border."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.methods.context_encoder import inpainting
from ssltool.plotting.frames import error_colors
from ssltool.plotting.records import Lines, Plot
from ssltool.plotting.sheet import Column, Scale, Sheet

if TYPE_CHECKING:
    from ssltool.methods.context_encoder.task import ContextEncoder, ContextEncoderView

_LARGEST_DEPTH = 12  # px from the border of a hole over which the error is plotted
_BATCH = 64
_CHECKERED = "Checkered: removed."
_OUTSIDE = 215  # gray of an error map around the hole


def draw_task(
    method: ContextEncoder, images: Tensor, index: Tensor, generator: torch.Generator
) -> Sheet:
    """The image with its hole, the network's input and the target."""
    view = method.view(images, index, generator)
    seen = torch.where(view.mask, method.mean_color(view), view.image)
    return Sheet(
        {
            "image": Column(_to_uint8(view.image)),
            "context": Column(_context(view)),
            "network input": Column(_to_uint8(seen)),
            "target": Column(_to_uint8((view.target + 1) / 2)),
        },
        "Context encoder: predict the pixels of a removed region from its context",
        note=_CHECKERED,
    )


@torch.no_grad()
def draw_predictions(
    method: ContextEncoder, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The context, the hole inpainted, the ground truth, and the error in the hole; the captions
    compare it with the baselines.
    """
    view = method.view(images, index, generator)
    filled = method.inpaint(view)
    heat, scale = _heat(filled, view)
    columns = {
        "context": Column(_context(view)),
        "prediction": Column(_to_uint8(filled)),
        "ground truth": Column(_to_uint8(view.image)),
        "error": Column(heat),
    }
    baselines = {
        name.replace("_", " "): _l1(way(view), view) for name, way in method.baselines.items()
    }
    captions = [
        f"mean absolute error {own:.1f}%; "
        + ", ".join(f"{name} {values[i]:.1f}%" for name, values in baselines.items())
        for i, own in enumerate(_l1(filled, view))
    ]
    title = "Context encoder: predicted pixels of a removed region"
    note = f"{_CHECKERED} Errors: over the removed pixels, of the range of values."
    return Predictions(Sheet(columns, title, captions, note, scale))


def plots(
    method: ContextEncoder, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """In evaluation mode: the error by distance to the border of the hole, beside the baselines."""
    if method.training:
        return {}
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(_LARGEST_DEPTH)
    for part in zip(torch.split(images, _BATCH), torch.split(index, _BATCH), strict=True):
        view = method.view(*part, generator)
        depth = inpainting.depth(view.mask, _LARGEST_DEPTH).flatten().cpu()
        hole = depth > 0
        counts += torch.bincount(depth[hole] - 1, minlength=_LARGEST_DEPTH)
        fillings = {
            "context encoder": method.inpaint(view),
            **{n: way(view) for n, way in method.baselines.items()},
        }
        for name, filled in fillings.items():
            error = (filled - view.image).abs().mean(dim=1).flatten().cpu()
            by_depth = torch.zeros(_LARGEST_DEPTH).index_add_(0, depth[hole] - 1, error[hole])
            sums[name] = sums.get(name, torch.zeros(_LARGEST_DEPTH)) + by_depth
    reached = int((counts > 0).sum())
    curves = {
        name.replace("_", " "): (100 * total / counts)[:reached].tolist()
        for name, total in sums.items()
    }
    label = "pixels from the border of the hole"
    if reached == _LARGEST_DEPTH:
        label += f" (the last: {_LARGEST_DEPTH} or more)"
    x = [float(step) for step in range(1, reached + 1)]
    return {"seam": Lines.shared_x(x, curves, label, "mean absolute error, %")}


def _l1(filled: Tensor, view: ContextEncoderView) -> list[float]:
    """Mean absolute error over the hole of each image, in percent."""
    values: list[float] = (100 * inpainting.errors(filled, view.image, view.mask)[0]).tolist()
    return values


def _context(view: ContextEncoderView) -> Tensor:
    """Images uint8 ``[B, C, S, S]`` with a checkerboard in the hole, which no image looks like."""
    side = view.image.shape[-1]
    steps = torch.arange(side, device=view.image.device) // max(1, side // 24)
    board = 0.75 + 0.2 * ((steps[:, None] + steps) % 2)
    return _to_uint8(torch.where(view.mask, board, view.image))


def _heat(filled: Tensor, view: ContextEncoderView) -> tuple[Tensor, Scale]:
    """Absolute error in the hole as colors uint8 ``[B, 3, S, S]``, on one scale for all images that
    ends at the next ten percent above 99.5 % of the errors; gray elsewhere.
    """
    error = (filled - view.image).abs().mean(dim=1)
    hole = view.mask[:, 0]
    top = max(1, math.ceil(10 * float(error[hole].float().quantile(0.995)))) / 10
    colors = error_colors().to(error.device)
    levels = (error / top).clamp(0, 1).mul(len(colors) - 1).round().long()
    heat = torch.where(hole[..., None], colors[levels], colors.new_tensor(_OUTSIDE))
    scale = Scale("absolute error", "0", f"{100 * top:.0f}%", colors)
    return heat.permute(0, 3, 1, 2), scale


def _to_uint8(images: Tensor) -> Tensor:
    """Images ``[B, C, h, w]`` in 0..1 as uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
