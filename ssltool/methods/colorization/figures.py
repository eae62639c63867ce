"""Figures of colorization: inputs, predicted colors, the color prior, errors and chroma."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.methods.base import Predictions
from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.recolor import with_colors
from ssltool.ops.lab import lab_to_rgb
from ssltool.plotting.records import Lines, Plot, Points
from ssltool.plotting.sheet import Column, Sheet

if TYPE_CHECKING:
    from ssltool.methods.colorization.task import Colorization, ColorizationView

_LIGHTNESS = 65.0  # at which colors alone are drawn
_BATCH = 32


def draw_task(
    method: Colorization, images: Tensor, index: Tensor, generator: torch.Generator
) -> Sheet:
    """The image, the network's input, the target colors, and the input in the target colors."""
    view = method.view(images, index, generator)
    side = view.ab.shape[-1]
    return Sheet(
        {
            "image": Column(view.image),
            "network input": Column(_gray(view)),
            f"target colors, {side} x {side}": Column(_swatch(view.ab, images.shape[-1])),
            "input in target colors": Column(with_colors(view.image, view.ab)),
        },
        "Colorization: predict the colors of an image from its lightness",
    )


@torch.no_grad()
def draw_predictions(
    method: Colorization, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The gray input, the input in the predicted colors, and the ground truth; the captions compare
    the error with that of the best constant color.
    """
    view = method.view(images, index, generator)
    predicted = method.predict(view.lightness, view.ab.shape[-1])
    decoded = method.colors(predicted, method.options.temperature)
    constant = best_constant(method.prior, method.centers)[:, None, None].expand_as(view.ab)
    columns = {
        "gray input": Column(_gray(view)),
        "prediction": Column(with_colors(view.image, decoded)),
        "ground truth": Column(view.image),
    }
    errors = [(ab - view.ab).norm(dim=1).mean(dim=(1, 2)).tolist() for ab in (decoded, constant)]
    captions = [
        f"mean ab error {error:.1f}, best constant color {level:.1f}"
        if colored
        else "a gray image, weight 0 in the loss"
        for error, level, colored in zip(*errors, view.colored.tolist(), strict=True)
    ]
    better = sum(error < level for error, level in zip(*errors, strict=True))
    note = (
        "ab error: mean distance of the colors in the (a, b) plane of CIE Lab. "
        f"{better} of {len(images)} shown are better than the best constant color."
    )
    title = "Colorization: colors predicted from the lightness"
    return Predictions(Sheet(columns, title, captions, note))


def best_constant(prior: Tensor, centers: Tensor) -> Tensor:
    """The color whose mean distance to the colors of the data is least, float ``[2]``.

    Args:
        prior: float ``[Q]``, share of each bin.
        centers: float ``[Q, 2]``, the bins' (a, b).
    """
    return centers[(torch.cdist(centers, centers) @ prior).argmin()]


def plots(
    method: Colorization, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """The bins by share and by weight; in evaluation mode errors and chroma of the predictions."""
    if method.training:
        full = ab_bins.rebalancing_weights(method.prior, method.options.rebalance)
        return {
            "colors": _plane(method, method.prior, "share"),
            "weights": _plane(method, full, "weight in the loss"),
        }
    parts = zip(torch.split(images, _BATCH), torch.split(index, _BATCH), strict=True)
    views = [method.view(*part, generator) for part in parts]
    return {"errors": _errors(method, views), "chroma": _chroma(method, views)}


def _plane(method: Colorization, values: Tensor, name: str) -> Points:
    """The (a, b) plane with the bins in their own colors."""
    lab = F.pad(method.centers, (1, 0), value=_LIGHTNESS).T[:, None]
    colors = (lab_to_rgb(lab) * 255).round().byte()[:, 0].T
    sizes = (values / values.max()).sqrt()  # rare colors would be invisible by share itself
    label = (
        f"a, green to red; area of a point: square root of its {name} "
        f"({values.min():.2g} to {values.max():.2g})"
    )
    a, b = method.centers[:, 0].cpu(), method.centers[:, 1].cpu()
    return Points(a, b, colors.cpu(), sizes.cpu(), label, "b, blue to yellow")


def _errors(method: Colorization, views: list[ColorizationView]) -> Lines:
    """Share of the pixels by largest error, plain and rebalanced, beside a gray prediction."""
    true = torch.cat([view.ab[view.colored] for view in views])
    decoded = _decoded(method, views, method.options.temperature)
    rare = method.rarity[torch.cat([view.target.nearest[view.colored] for view in views])]
    axis = torch.arange(0, 101, 2, device=true.device)
    curves = {}
    for kind, weight in {"": torch.ones_like(rare), ", rebalanced": rare}.items():
        for name, ab in {"network": decoded, "gray": torch.zeros_like(decoded)}.items():
            error = (ab - true).norm(dim=1)
            curves[name + kind] = [
                float(((error <= most) * weight).sum() / weight.sum()) for most in axis
            ]
    label = "distance from the true color in (a, b), at most"
    return Lines.shared_x(axis.tolist(), curves, label, "share of the pixels")


def _chroma(method: Colorization, views: list[ColorizationView]) -> Lines:
    """Share of the pixels by least chroma, true and predicted."""
    colors = {"true": torch.cat([view.ab[view.colored] for view in views])}
    for name, temperature in _temperatures(method).items():
        colors[name] = _decoded(method, views, temperature)
    axis = torch.arange(0, 101, 2, device=method.prior.device)
    curves = {
        name: [float((ab.norm(dim=1) >= least).float().mean()) for least in axis]
        for name, ab in colors.items()
    }
    return Lines.shared_x(axis.tolist(), curves, "chroma, at least", "share of the pixels")


def _decoded(method: Colorization, views: list[ColorizationView], temperature: float) -> Tensor:
    """Predicted colors of the images with color, ``[n, 2, t, t]``."""
    return torch.cat(
        [
            method.colors(method.predict(view.lightness, view.ab.shape[-1]), temperature)[
                view.colored
            ]
            for view in views
        ]
    )


def _temperatures(method: Colorization) -> dict[str, float]:
    """Name of each way to decode a prediction, and its temperature."""
    if method.options.loss == "euclidean":
        return {"prediction": 1.0}
    annealed = method.options.temperature
    return {"mean (T = 1)": 1.0, f"annealed (T = {annealed:g})": annealed, "mode (T = 0)": 0.0}


def _gray(view: ColorizationView) -> Tensor:
    """The images without their colors, uint8 ``[B, 3, S, S]``."""
    return with_colors(view.image, torch.zeros_like(view.ab))


def _swatch(ab: Tensor, side: int) -> Tensor:
    """Colors ``[B, 2, t, t]`` at constant lightness, as images uint8 ``[B, 3, side, side]``."""
    light = torch.full_like(ab[:, :1], _LIGHTNESS)
    colors = (lab_to_rgb(torch.cat([light, ab], dim=1)) * 255).round()
    return F.interpolate(colors, (side, side), mode="nearest-exact").byte()
