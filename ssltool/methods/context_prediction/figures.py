"""Figures of context prediction: pairs of patches, predicted positions, confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.ops import patches
from ssltool.plotting import frames
from ssltool.plotting.colors import BLUE, GRAY, GREEN, PALETTE, YELLOW
from ssltool.plotting.records import Matrix, Plot
from ssltool.plotting.sheet import Column, Key, Mark, Scale, Sheet, tile_boxes, tile_gap

if TYPE_CHECKING:
    from ssltool.methods.context_prediction.task import ContextPrediction, ContextPredictionView

_POSITIONS = [str(position + 1) for position in range(8)]
_BATCH = 64
_CELLS = (0, 1, 2, 3, 5, 6, 7, 8)  # of a 3x3 field, which each of the eight locations is
_CENTER, _SECOND = Key(PALETTE[3], "center patch"), Key(YELLOW, "second patch")
_OTHER = Key(GRAY, "other patches", dashed=True)
_TRUE = Key(GREEN, "true location")
_PREDICTED = Key(BLUE, "predicted location", round=True)


def draw_task(
    method: ContextPrediction, images: Tensor, index: Tensor, generator: torch.Generator
) -> Sheet:
    """All patches on the image, one pair of them as the network's input, and its location."""
    view = method.view(images, index, generator)
    # One pair of each image, spread over the locations so that a sheet shows several of them.
    wanted = torch.arange(len(images), device=images.device) * 3 % 8
    chosen = (view.target == wanted[:, None]).to(torch.uint8).argmax(dim=1)
    pair = _pair(view, chosen)
    inputs = frames.to_uint8(_taken(view.patches, pair))
    location = view.target.gather(1, chosen[:, None])[:, 0]
    return Sheet(
        {
            "image and its patches": _outlined(method, view, pair, others=True),
            "network input 1": Column(inputs[:, 0], [[Mark(_CENTER)]] * len(images)),
            "network input 2": Column(inputs[:, 1], [[Mark(_SECOND)]] * len(images)),
            "which of 8 locations?": _field(_taken(view.raw, pair), location, location, None),
        },
        "Context prediction: classify where the second patch lies around the center patch",
    )


@torch.no_grad()
def draw_predictions(
    method: ContextPrediction, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The pair on the image, the second patch at the predicted location among the eight, shaded by
    their probability, and the ground truth.
    """
    view = method.view(images, index, generator)
    logits = method.head(method.vectors(view), view.first, view.second)
    # The first pair of each image.
    probability = logits.softmax(dim=1).view(*view.target.shape, 8)[:, 0]
    true, predicted = view.target[:, 0], probability.argmax(dim=1)
    pair = _pair(view, torch.zeros_like(true))
    raw = _taken(view.raw, pair)
    columns = {
        "image": _outlined(method, view, pair, others=False),
        "prediction": _field(raw, predicted, true, probability),
        "ground truth": _field(raw, true, true, None),
    }
    rows = zip(true.tolist(), predicted.tolist(), probability.tolist(), strict=True)
    captions = [
        f"predicted location {guess + 1} with probability {values[guess]:.0%}, true location "
        f"{place + 1}"
        for place, guess, values in rows
    ]
    note = f"{int((true == predicted).sum())} of {len(images)} shown are right."
    title = "Context prediction: predicted location of the second patch around the center patch"
    return Predictions(Sheet(columns, title, captions, note, _scale()))


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
) -> Column:
    """The images with the pair outlined, and all other patches if asked for."""
    corner = view.corner
    if corner.shape[-1] == 2:
        corner = torch.cat([corner, torch.full_like(corner, method.sizes.patch)], dim=-1)
    boxes = (corner / view.image.shape[-1]).tolist()
    marks = []
    for image, (first, second) in zip(boxes, pair.tolist(), strict=True):
        drawn = dict.fromkeys(range(len(image)), _OTHER) if others else {}
        drawn = {place: key for place, key in drawn.items() if place not in (first, second)}
        drawn |= {first: _CENTER, second: _SECOND}
        marks.append(
            [
                Mark(key, (left, top, width, height))
                for place, key in drawn.items()
                for top, left, height, width in [image[place]]
            ]
        )
    return Column(view.image, marks)


def _field(pair: Tensor, shown: Tensor, true: Tensor, probability: Tensor | None) -> Column:
    """A 3x3 field with the first patch in the middle and the second around it.

    Args:
        pair: uint8 ``[B, 2, 3, p, p]``.
        shown: int64 ``[B]``, location at which the second patch is drawn: the predicted one if
            there are probabilities.
        true: int64 ``[B]``, its true location.
        probability: float ``[B, 8]``, which shades the empty locations; all light if None.
    """
    count, size, gap = len(pair), pair.shape[-1], tile_gap(pair.shape[-1])
    levels = pair.new_zeros(count, 8, dtype=torch.float32) if probability is None else probability
    cells = torch.tensor(_CELLS, device=pair.device)
    field = pair.new_full((count, 9, pair.shape[2], size, size), 255)
    field[:, cells] = _shade(levels)[:, :, None, None, None]
    field[:, 4] = pair[:, 0]
    field[torch.arange(count, device=pair.device), cells[shown]] = pair[:, 1]
    boxes = list(tile_boxes(9, 3, size, gap))
    marks = []
    for at, place in zip(shown.tolist(), true.tolist(), strict=True):
        numbers = [
            Mark(None, boxes[cell], str(location + 1), centered=location != at)
            for location, cell in enumerate(_CELLS)
        ]
        outlines = [Mark(_CENTER, boxes[4]), Mark(_TRUE, boxes[_CELLS[place]])]
        if probability is not None:
            outlines.append(Mark(_PREDICTED, boxes[_CELLS[at]]))
        marks.append(outlines + numbers)
    return Column(patches.assemble(field, 3, gap, fill=255), marks)


def _shade(probability: Tensor) -> Tensor:
    """Gray level uint8 of a probability: likelier is darker."""
    return (235 - 190 * probability.sqrt()).round().to(torch.uint8)


def _scale() -> Scale:
    colors = _shade(torch.linspace(0, 1, 64))[:, None].expand(-1, 3)
    return Scale("probability of a location", "0", "1", colors)


def _taken(stack: Tensor, pair: Tensor) -> Tensor:
    """Patches ``pair`` int64 ``[B, 2]`` of ``[B, N, ...]``."""
    return stack[torch.arange(len(stack), device=stack.device)[:, None], pair]
