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
from ssltool.plotting.colors import GREEN, PALETTE, SKY, YELLOW
from ssltool.plotting.records import Lines, Matrix, Plot
from ssltool.plotting.sheet import Box, Column, Key, Mark, Sheet, tile_boxes, tile_gap

if TYPE_CHECKING:
    from ssltool.methods.cpc.task import Cpc, CpcView

_CANDIDATES = 8  # best candidates drawn
_GAP_GRAY = 200
_BATCH = 64
_CELL = Key(PALETTE[3], "cells of the grid, those that do not overlap")
_ROWS = Key(SKY, "rows that the context has seen")
_CONTEXT = Key(YELLOW, "context")
_TARGET_ROW = Key(GREEN, "row of the target", dashed=True)
_TARGET = Key(GREEN, "target patch")


def draw_task(method: Cpc, images: Tensor, index: Tensor, generator: torch.Generator) -> Sheet:
    """The grid, a context and its targets, the augmented patches, and the pixels that a context
    depends on.
    """
    view = method.view(images, index, generator)
    count, (row, column) = method.grid.count, _middle(method)
    number = torch.arange(count**2).view(count, count)
    tiling = number[:: method.grid.least_offset, :: method.grid.least_offset].flatten()
    targets = [number[row + k, column] for k in method.offsets if row + k < count]
    grid = [Mark(_CELL, _extent(method, cell)) for cell in tiling]
    ahead = [
        Mark(_ROWS, _extent(method, number[: row + 1])),
        *(Mark(_TARGET, _extent(method, cell)) for cell in targets),
        Mark(_CONTEXT, _extent(method, number[row, column])),
    ]
    fields = [
        _highlighted(view.image, _influence(method, view.image, direction, row, column) > 0)
        for direction in method.directions
    ]
    columns = 2 if len(fields) == 4 else len(fields)
    every = patches.assemble(_patch_images(method, view), count, 1, _GAP_GRAY)
    return Sheet(
        {
            "grid": Column(view.image, [grid] * len(images)),
            "a context and its targets": Column(view.image, [ahead] * len(images)),
            "network input: patches": Column(every),
            f"pixels it depends on ({', '.join(method.directions)})": Column(
                patches.assemble(torch.stack(fields, dim=1), columns, 2, _GAP_GRAY)
            ),
        },
        "Contrastive predictive coding: identify the patch some rows ahead of a context",
    )


@torch.no_grad()
def draw_predictions(
    method: Cpc, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """For one context of each image: the grid with context and target, and the best candidates
    among all patches of these images, the true one framed.
    """
    view = method.view(images, index, generator)
    rng = PerImageRNG(index, generator)
    codes, side = method.codes(view.patches), method.grid.count
    number = torch.arange(side**2, device=codes.device).view(side, side)
    directions = rng.integers(len(method.directions), 1)[:, 0].tolist()
    offsets = rng.integers(len(method.offsets), 1)[:, 0].tolist()
    position = rng.uniform(2)
    shown = grids.cut(view.image, method.grid)
    marks, ranked, ranked_marks, captions, first = [], [], [], [], 0
    for b in range(len(images)):
        direction, k = method.directions[directions[b]], method.offsets[offsets[b]]
        targets, predictions = method.predictors[direction](grids.orient(codes, direction))
        i, j = int(position[b, 0] * (side - k)), int(position[b, 1] * side)
        scores = (targets @ predictions[k][b, i, j]).float()  # [B, G, G]
        scores = grids.restore(scores, direction).flatten()
        cells = grids.orient(number, direction)
        target = b * side**2 + int(cells[i + k, j])
        marks.append(_ahead(method, cells, i, j, k))
        best = scores.argsort(descending=True, stable=True)[:_CANDIDATES]
        ranked.append(shown.flatten(0, 1)[best])
        ranked_marks.append(_ranks(method, best.tolist(), target))
        rank = int((scores > scores[target]).sum()) + 1
        first += rank == 1
        same = "the same" if int(best[0]) // side**2 == b else "another"
        captions.append(
            f"{k} rows {direction}: the target ranks {rank:,} of {len(scores):,} patches"
            + ("" if rank == 1 else f"; first: {same} image")
        )
    gap = tile_gap(method.grid.patch)
    candidates = patches.assemble(torch.stack(ranked), _CANDIDATES // 2, gap, _GAP_GRAY)
    columns = {
        "context and target": Column(view.image, marks),
        "candidates, the most similar first": Column(candidates, ranked_marks),
    }
    title = "Contrastive predictive coding: patches ranked by similarity to the prediction"
    note = f"The target ranks first in {first} of the {len(images)} shown."
    return Predictions(Sheet(columns, title, captions, note))


def _ahead(method: Cpc, cells: Tensor, i: int, j: int, k: int) -> list[Mark]:
    """Marks of context (i, j), of what it has seen, and of its target k rows ahead, where
    ``cells`` int64 ``[G, G]`` are the grid's in the direction of prediction.
    """
    return [
        Mark(_ROWS, _extent(method, cells[: i + 1])),
        Mark(_TARGET_ROW, _extent(method, cells[i + k])),
        Mark(_CONTEXT, _extent(method, cells[i, j])),
        Mark(_TARGET, _extent(method, cells[i + k, j])),
    ]


def _ranks(method: Cpc, best: list[int], target: int) -> list[Mark]:
    """The ranks of the best candidates on their patches, the true one framed."""
    side = method.grid.patch
    boxes = tile_boxes(len(best), _CANDIDATES // 2, side, tile_gap(side))
    return [
        Mark(_TARGET if patch == target else None, box, str(rank))
        for rank, (patch, box) in enumerate(zip(best, boxes, strict=True), 1)
    ]


def _extent(method: Cpc, cells: Tensor) -> Box:
    """The box around cells of the grid, int64 of any shape."""
    count, stride, patch, side = (
        method.grid.count,
        method.grid.stride,
        method.grid.patch,
        method.grid.side,
    )
    rows, columns = cells // count * stride, cells % count * stride
    left, top = int(columns.min()), int(rows.min())
    right, bottom = int(columns.max()) + patch, int(rows.max()) + patch
    return left / side, top / side, (right - left) / side, (bottom - top) / side


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
    return values.to(torch.uint8)


def _highlighted(image: Tensor, mask: Tensor) -> Tensor:
    """Images uint8 ``[B, 3, H, H]``, pale outside of the mask, bool ``[B, H, H]``."""
    return torch.where(mask[:, None], image, (image * 0.25).to(torch.uint8) + 170)
