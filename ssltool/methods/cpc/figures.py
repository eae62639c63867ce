"""Figures of contrastive predictive coding: grids, receptive fields, retrieved patches."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.methods.cpc.context_network import Predictor
from ssltool.ops import grids, patches
from ssltool.ops.grids import Direction
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting import frames
from ssltool.plotting.records import Lines, Matrix, Plot

if TYPE_CHECKING:
    from ssltool.methods.cpc.task import Cpc, CpcView

_CANDIDATES = 8  # best candidates drawn
_GAP_GRAY = 200
_SHOWN = 192  # px, about the side of a drawn image
_CELL = 8  # px of a cell of the similarity map
_BATCH = 64


def draw_task(
    method: Cpc, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The grid, a context and its targets, the augmented patches, and the pixels that a context
    depends on.
    """
    view = method.view(images, index, generator)
    count, (row, column) = method.grid.count, _middle(method)
    tiling = torch.arange(0, count, method.grid.least_offset)
    cells = (tiling[:, None] * count + tiling).flatten()
    targets = torch.tensor([(row + k) * count + column for k in method.offsets if row + k < count])
    context = torch.tensor([row * count + column])
    fields = [
        _highlighted(view.image, _influence(method, view.image, direction, row, column) > 0)
        for direction in method.directions
    ]
    columns = 2 if len(fields) == 4 else len(fields)
    return {
        "grid (patches that do not overlap)": _framed(method, view.image, (cells, frames.YELLOW)),
        "context (yellow), its targets below": _framed(
            method, view.image, (targets, frames.GREEN), (context, frames.YELLOW)
        ),
        "network input: all patches": patches.assemble(
            _patch_images(method, view), count, 1, _GAP_GRAY
        ),
        f"pixels a context depends on: {', '.join(method.directions)}": patches.assemble(
            torch.stack(fields, dim=1), columns, 4, _GAP_GRAY
        ),
    }


@torch.no_grad()
def draw_predictions(
    method: Cpc, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """For one context of each image: the best candidates among these images, the target framed."""
    view = method.view(images, index, generator)
    rng = PerImageRNG(index, generator)
    codes, side = method.codes(view.patches), method.grid.count
    number = torch.arange(side**2, device=codes.device).view(side, side)
    directions = rng.integers(len(method.directions), 1)[:, 0].tolist()
    offsets = rng.integers(len(method.offsets), 1)[:, 0].tolist()
    position = rng.uniform(2)
    columns: dict[str, list[Tensor]] = {}
    captions = []
    for b in range(len(images)):
        direction, k = method.directions[directions[b]], method.offsets[offsets[b]]
        targets, predictions = method.predictors[direction](grids.orient(codes, direction))
        i, j = int(position[b, 0] * (side - k)), int(position[b, 1] * side)
        similarity = targets @ predictions[k][b, i, j]  # [B, G, G]
        scores = method.options.logit_scale * similarity.float()
        scores = grids.restore(scores, direction).flatten(1)
        cells = grids.orient(number, direction)
        target, context = cells[i + k, j], cells[i, j]
        for name, image in _retrieved(method, view, b, scores, target, context).items():
            columns.setdefault(name, []).append(image)
        rank = int((scores > scores[b, target]).sum()) + 1
        same = "the same" if int(scores.argmax()) // side**2 == b else "another"
        captions.append(
            f"{k} {direction}: the target ranks {rank} of {scores.numel()}, similarity "
            f"{float(scores[b, target]):.2f}; the first has {float(scores.max()):.2f} and is "
            f"of {same} image"
        )
    return Predictions({name: torch.stack(stack) for name, stack in columns.items()}, captions)


def plots(
    method: Cpc, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """Training: receptive fields of contexts. Evaluation: accuracy by direction and offset."""
    if method.training:
        return {"reach of contexts": _reach(method, images[:2], index[:2], generator)}
    hits: dict[tuple[Direction, int], list[Tensor]] = {}
    parts = -(-len(images) // _BATCH)
    for part in zip(
        torch.tensor_split(images, parts), torch.tensor_split(index, parts), strict=True
    ):
        for key, retrieved in method.retrieve(method.view(*part, generator)).items():
            hits.setdefault(key, []).append(retrieved.rank == 0)
    accuracy = [
        [float(torch.cat(hits[direction, k]).float().mean()) for k in method.offsets]
        for direction in method.directions
    ]
    values = 100 * torch.tensor(accuracy, dtype=torch.float64)
    offsets = [str(k) for k in method.offsets]
    return {
        "accuracy in percent": Matrix(
            values, method.directions, offsets, "direction", "offset in rows"
        )
    }


def _retrieved(
    method: Cpc, view: CpcView, b: int, scores: Tensor, target: Tensor, context: Tensor
) -> dict[str, Tensor]:
    """One row of `draw_predictions`, each uint8 ``[3, h, w]``, from scores ``[B, G*G]``."""
    side = method.grid.count
    shown = _patch_images(method, view)
    best = scores.flatten().argsort(descending=True, stable=True)[:_CANDIDATES]
    times = max(1, _SHOWN // 4 // method.grid.patch)
    candidates = frames.enlarged(shown.flatten(0, 1)[best][None], times)
    green = frames.GREEN.to(best.device)
    width = max(1, candidates.shape[-1] // 12)
    framed = frames.border(candidates, green.expand(1, len(best), 3), width)
    is_target = (best == b * side**2 + target)[None, :, None, None, None]
    candidates = torch.where(is_target, framed, candidates)
    heat = frames.to_uint8(scores[b].view(1, 1, side, side)).expand(1, 3, -1, -1)
    heat = frames.enlarged(heat, _CELL)
    top, left = target.view(1, 1) // side * _CELL, target.view(1, 1) % side * _CELL
    heat = frames.outline(heat, top, left, _CELL, frames.GREEN)
    marked = _framed(
        method,
        view.image[b : b + 1],
        (target[None], frames.GREEN),
        (context[None], frames.YELLOW),
    )
    return {
        "context (yellow) and target (green)": marked[0],
        "target": shown[b, target],
        f"the {_CANDIDATES} best candidates": patches.assemble(
            candidates, _CANDIDATES // 2, 4, _GAP_GRAY
        )[0],
        "similarity, brighter = higher": heat[0],
    }


def _reach(method: Cpc, images: Tensor, index: Tensor, generator: torch.Generator) -> Lines:
    """Last pixel row that contexts of each row depend on, the furthest of all directions, and the
    first of their nearest target.
    """
    image = method.view(images, index, generator).image
    contexts = range(method.grid.count - method.grid.least_offset)
    column = _middle(method)[1]
    last = []
    for i in contexts:
        fields = [
            grids.orient(_influence(method, image, direction, i, column), direction)
            for direction in method.directions
        ]
        rows = torch.stack([field.amax(dim=(0, 2)) for field in fields]).amax(dim=0)
        last.append(float(rows.nonzero().max()) if rows.any() else -1.0)
    limit = [float((i + method.grid.least_offset) * method.grid.stride) for i in contexts]
    curves = {
        "last pixel row a context depends on": last,
        "first pixel row of its nearest target": limit,
    }
    x = [float(i) for i in contexts]
    return Lines.shared_x(x, curves, "row of the context", "pixel row, in the direction")


def _influence(method: Cpc, image: Tensor, direction: Direction, row: int, column: int) -> Tensor:
    """|d c[row, column] / d pixel| float ``[B, H, H]`` of uint8 images, contexts summed over the
    batch.
    """
    # A copy, because batch norm would update its statistics.
    encoder, predictor = copy.deepcopy(method.encoder), method.predictors[direction]
    assert isinstance(predictor, Predictor)
    count = method.grid.count
    with torch.enable_grad():
        x = (image.float() / 255).requires_grad_()
        inputs = method.standardized(grids.cut(x, method.grid)).flatten(0, 1)
        codes = encoder(inputs).view(len(x), count, count, -1).permute(0, 3, 1, 2)
        context = predictor.context(grids.orient(codes, direction))[:, :, row, column]
        (gradient,) = torch.autograd.grad(context.sum(), x)
    return gradient.abs().sum(dim=1)


def _middle(method: Cpc) -> tuple[int, int]:
    """Row and column of a context with rows above it and a target below it."""
    return (method.grid.count - method.grid.least_offset) // 2, method.grid.count // 2


def _patch_images(method: Cpc, view: CpcView) -> Tensor:
    """The augmented patches as images, uint8 ``[B, G*G, 3, P, P]``."""
    values = (view.patches * method.std + method.mean).mul_(255).round_().clamp_(0, 255)
    return values.to(torch.uint8).expand(-1, -1, 3, -1, -1)


def _framed(method: Cpc, image: Tensor, *squares: tuple[Tensor, Tensor]) -> Tensor:
    """Images uint8 ``[B, 3, H, H]`` enlarged, with cells int64 ``[n]`` outlined in a color each."""
    times = max(1, _SHOWN // image.shape[-1])
    framed = frames.enlarged(image, times)
    step = method.grid.stride * times
    for cells, color in squares:
        at = cells.to(image.device).expand(len(image), -1)
        top, left = at // method.grid.count * step, at % method.grid.count * step
        framed = frames.outline(framed, top, left, method.grid.patch * times, color)
    return framed


def _highlighted(image: Tensor, mask: Tensor) -> Tensor:
    """Images uint8 ``[B, 3, H, H]``, enlarged, pale outside of the mask, bool ``[B, H, H]``."""
    shown = torch.where(mask[:, None], image, (image * 0.25).to(torch.uint8) + 90)
    return frames.enlarged(shown, max(1, _SHOWN // 2 // image.shape[-1]))
