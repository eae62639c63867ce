"""Figures of context prediction: pairs of patches, predicted positions, confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.ops import patches
from ssltool.plotting import frames
from ssltool.plotting.records import Matrix, Plot

if TYPE_CHECKING:
    from ssltool.methods.context_prediction.task import ContextPrediction, ContextPredictionView

_POSITIONS = [str(position + 1) for position in range(8)]
_SHOWN = 192  # px, about the side of a drawn image
_BATCH = 64


def draw_task(
    method: ContextPrediction, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """All patches on the image, one pair of them, and that pair as the network's input."""
    view = method.view(images, index, generator)
    # One pair of each image, spread over the positions so that a sheet shows several of them.
    wanted = torch.arange(len(images), device=images.device) * 3 % 8
    chosen = (view.target == wanted[:, None]).to(torch.uint8).argmax(dim=1)
    pair = _pair(view, chosen)
    inputs = frames.to_uint8(_taken(view.patches, pair)).expand(-1, -1, 3, -1, -1)
    position = view.target.gather(1, chosen[:, None])[:, 0]
    return {
        "first blue, second green": _outlined(method, view, pair, others=True),
        "relative position": _neighborhood(_taken(view.raw, pair), position, position, None),
        "network input": patches.assemble(inputs, 2, gap=2, fill=255),
    }


@torch.no_grad()
def draw_predictions(
    method: ContextPrediction, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The pair on the image, the second patch at the predicted position with the eight positions
    shaded by their probability, and the ground truth.
    """
    view = method.view(images, index, generator)
    logits = method.head(method.vectors(view), view.first, view.second)
    # The first pair of each image.
    probability = logits.softmax(dim=1).view(*view.target.shape, 8)[:, 0]
    position, predicted = view.target[:, 0], probability.argmax(dim=1)
    pair = _pair(view, torch.zeros_like(position))
    raw = _taken(view.raw, pair)
    columns = {
        "first blue, second green": _outlined(method, view, pair, others=False),
        "prediction: brighter = likelier": _neighborhood(raw, predicted, position, probability),
        "ground truth": _neighborhood(raw, position, position, None),
    }
    rows = zip(position.tolist(), predicted.tolist(), probability.tolist(), strict=True)
    captions = [
        f"position {true + 1}; predicted {guess + 1}, confidence {values[guess]:.0%}"
        for true, guess, values in rows
    ]
    return Predictions(columns, captions)


def plots(
    method: ContextPrediction, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """In evaluation mode: confusion matrix of the eight positions, rows summing to 1."""
    if method.training:
        return {}
    counts = torch.zeros(8, 8)
    for part in zip(torch.split(images, _BATCH), torch.split(index, _BATCH), strict=True):
        view = method.view(*part, generator)
        predicted = method.head(method.vectors(view), view.first, view.second).argmax(dim=1)
        cells = (view.target.flatten().cpu(), predicted.cpu())
        counts.index_put_(cells, torch.ones(()), accumulate=True)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
    labels = ("true position of the second patch", "predicted position")
    return {"confusion": Matrix(shares, _POSITIONS, _POSITIONS, *labels)}


def _pair(view: ContextPredictionView, chosen: Tensor) -> Tensor:
    """First and second patch ``[B, 2]`` of the chosen pair, int64 ``[B]``, of each image."""
    return torch.cat([part.gather(1, chosen[:, None]) for part in (view.first, view.second)], dim=1)


def _outlined(
    method: ContextPrediction, view: ContextPredictionView, pair: Tensor, others: bool
) -> Tensor:
    """The images with the first patch of the pair ``[B, 2]`` outlined in blue, the second in green
    and, if asked for, all others in yellow.
    """
    times = max(1, _SHOWN // view.image.shape[-1])
    outlined, corner = frames.enlarged(view.image, times), view.corner * times
    if corner.shape[-1] == 2:
        corner = torch.cat([corner, torch.full_like(corner, method.sizes.patch * times)], dim=-1)
    first, second = _taken(corner, pair[:, :1]), _taken(corner, pair[:, 1:])
    boxes = [(corner, frames.YELLOW)] if others else []
    for box, color in [*boxes, (first, frames.BLUE), (second, frames.GREEN)]:
        top, left, size = box[..., 0], box[..., 1], box[..., 2:]
        outlined = frames.outline(outlined, top, left, size, color, width=2)
    return outlined


def _neighborhood(pair: Tensor, shown: Tensor, true: Tensor, probability: Tensor | None) -> Tensor:
    """A 3x3 field with the first patch in the middle and the second around it, as one image each.

    Args:
        pair: uint8 ``[B, 2, 3, p, p]``.
        shown: int64 ``[B]``, position at which the second patch is drawn.
        true: int64 ``[B]``, its true position; the frame is green there and red elsewhere.
        probability: float ``[B, 8]``, gray level of the empty positions; all dark if None.
    """
    pair = frames.enlarged(pair, max(1, _SHOWN // 3 // pair.shape[-1]))
    count, size = len(pair), pair.shape[-1]
    levels = pair.new_zeros(count, 8, dtype=torch.float32)
    if probability is not None:
        levels = probability.sqrt()
    gray = (40 + 190 * levels).to(torch.uint8)
    gray = gray[:, [0, 1, 2, 3, 3, 4, 5, 6, 7]]  # the middle is drawn over
    field = gray[:, :, None, None, None].expand(-1, -1, 3, size, size).clone()
    field[:, 4] = pair[:, 0]
    correct = (shown == true)[:, None, None]
    color = torch.where(correct, frames.GREEN.to(pair.device), frames.RED.to(pair.device))
    cell = shown + (shown >= 4)  # positions skip the middle
    width = max(1, size // 16)
    field[torch.arange(count, device=pair.device), cell] = frames.border(
        pair[:, 1:], color, width=width
    )[:, 0]
    return patches.assemble(field, 3, gap=width, fill=255)


def _taken(stack: Tensor, pair: Tensor) -> Tensor:
    """Patches ``pair`` int64 ``[B, 2]`` of ``[B, N, ...]``."""
    return stack[torch.arange(len(stack), device=stack.device)[:, None], pair]
