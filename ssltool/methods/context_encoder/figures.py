"""Figures of context encoders: masked images, inpainted images, error by distance to the border."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.methods.context_encoder import inpainting
from ssltool.plotting.records import Lines, Plot

if TYPE_CHECKING:
    from ssltool.methods.context_encoder.task import ContextEncoder, ContextEncoderView

_LARGEST_DEPTH = 12  # px from the border of a hole over which the error is plotted
_BATCH = 64


def draw_task(
    method: ContextEncoder, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The image, its mask, the network's input and the target."""
    view = method.view(images, index, generator)
    mean = method.mean_color(view)
    return {
        "image": _to_uint8(view.image),
        "mask": _to_uint8(view.mask.float()),
        "network input": _to_uint8(torch.where(view.mask, mean, view.image)),
        "target": _to_uint8((view.target + 1) / 2),
    }


@torch.no_grad()
def draw_predictions(
    method: ContextEncoder, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The image with the hole in white, the hole inpainted, interpolated and, in evaluation of a
    run, from the nearest training image, the ground truth, and the error.
    """
    view = method.view(images, index, generator)
    ways = {name: way for name, way in method.baselines.items() if name != "mean_color"}
    fillings = {
        "prediction": method.inpaint(view),
        **{name.replace("_", " "): way(view) for name, way in ways.items()},
    }
    error = (fillings["prediction"] - view.image).abs().mean(dim=1, keepdim=True) * 2
    columns = {
        "input": _to_uint8(torch.where(view.mask, 1.0, view.image)),
        **{name: _to_uint8(filled) for name, filled in fillings.items()},
        "ground truth": _to_uint8(view.image),
        "error of the prediction": _to_uint8(error),
    }
    described = [
        [
            f"{name} {100 * l1:.1f} %, {100 * l2:.2f} %, {psnr:.1f} dB"
            for l1, l2, psnr in _errors(filled, view)
        ]
        for name, filled in fillings.items()
    ]
    captions = [f"L1, L2, PSNR: {'; '.join(parts)}" for parts in zip(*described, strict=True)]
    return Predictions(columns, captions)


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


def _errors(filled: Tensor, view: ContextEncoderView) -> list[list[float]]:
    """L1, L2 and PSNR over the hole of each image."""
    errors: list[list[float]] = torch.stack(
        inpainting.errors(filled, view.image, view.mask), dim=1
    ).tolist()
    return errors


def _to_uint8(images: Tensor) -> Tensor:
    """Images ``[B, 1 or 3, h, w]`` in 0..1 as uint8 ``[B, 3, h, w]``."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
