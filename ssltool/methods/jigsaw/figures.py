"""Figures of the jigsaw task: tiles, shuffled tiles, predicted arrangements, beliefs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.methods.jigsaw.beliefs import belief_tables, best_assignments
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting import frames
from ssltool.plotting.records import Bars, Level, Matrix, Plot

if TYPE_CHECKING:
    from ssltool.methods.jigsaw.task import Jigsaw, JigsawView

_GAP_GRAY = 200  # between tiles, which may be white
_BELIEF = 180  # px, about the side of a belief table
_BATCH = 64
_PERMUTATIONS = 8  # per image in plots; the tiles are encoded once


def draw_task(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The image with its tiles outlined, the tiles in place, and the tiles shuffled."""
    view = method.view(images, index, generator)
    tile = view.raw.shape[-1]
    outlined = frames.outline(
        view.image, view.corner[..., 0], view.corner[..., 1], tile, frames.YELLOW
    )
    encoded = frames.to_uint8(view.tiles).expand(-1, -1, 3, -1, -1)
    return {
        "image and tiles": outlined,
        "tiles in place": _assembled(method, view.raw),
        "shuffled tiles": _assembled(method, _shuffled(method, view, view.raw)),
        "network input": _assembled(method, _shuffled(method, view, encoded)),
    }


@torch.no_grad()
def draw_predictions(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The shuffled tiles; the arrangement by the likeliest permutation and that by the beliefs
    about single tiles, each tile framed by whether it is correct; the beliefs; the ground truth.
    """
    view = method.view(images, index, generator)
    logits = method.logits(view).view(len(images), -1, len(method.orders))
    logits = logits[:, 0]  # an image's first permutation
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    true, likeliest = method.orders[view.target[:, 0]], method.orders[predicted]
    tables = belief_tables(logits, method.orders)
    assigned = best_assignments(tables)
    shuffled = _shuffled(method, view, view.raw)
    columns = {
        "shuffled tiles": _assembled(method, shuffled),
        "prediction": _arranged(method, shuffled, likeliest, true),
        "best assignment": _arranged(method, shuffled, assigned, true),
        "beliefs: slot, cell": _belief_image(tables, true),
        "ground truth": _assembled(method, view.raw),
    }
    known = (assigned[:, None] == method.orders).all(dim=2).any(dim=1)
    rows = zip(
        (true == likeliest).sum(dim=1).tolist(),
        confidence.tolist(),
        (true == assigned).sum(dim=1).tolist(),
        known.tolist(),
        strict=True,
    )
    captions = [
        f"{correct} of {method.tiles} tiles correct, confidence {share:.0%}; assignment {better}"
        + ("" if in_set else ", not in the set")
        for correct, share, better, in_set in rows
    ]
    return Predictions(columns, captions)


def plots(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """In evaluation mode: accuracy by the distance of the permutation to the nearest other one, and
    the mean belief about the tiles of each cell.
    """
    if method.training:
        return {}
    hits, distances, beliefs = [], [], torch.zeros(method.tiles, method.tiles)
    for part, which in zip(torch.split(images, _BATCH), torch.split(index, _BATCH), strict=True):
        view = method.view(part, which, generator)
        target = PerImageRNG(which, generator).integers(len(method.orders), _PERMUTATIONS)
        logits = method.logits(view._replace(target=target))
        hits.append((logits.argmax(dim=1).view_as(target) == target).cpu())
        distances.append(method.nearest[target.cpu()])
        # A slot's row becomes that of the cell whose tile it holds.
        tables = belief_tables(logits, method.orders)
        slots = method.orders[target.flatten()].argsort(dim=1)
        beliefs += _taken(tables, slots).sum(dim=0).cpu()
    cells = [str(cell + 1) for cell in range(method.tiles)]
    return {
        "accuracy by distance": accuracy_by_distance(
            torch.cat(hits), torch.cat(distances), 1 / len(method.orders)
        ),
        "beliefs": Matrix(
            beliefs / (len(images) * _PERMUTATIONS),
            cells,
            cells,
            "true cell of a tile",
            f"cell it is believed to be of; chance level {1 / method.tiles:.3f}",
        ),
    }


def accuracy_by_distance(hits: Tensor, distances: Tensor, chance: float) -> Bars:
    """Bars of the accuracy of permutations at each distance to the nearest other one.

    Args:
        hits: bool ``[n, P]``, whether the permutations of n images were recognized.
        distances: int64 ``[n, P]``.
        chance: Chance level, 0..1.

    Returns:
        Percent, with standard errors over the images.
    """
    values, errors = {}, {}
    for distance in sorted(set(distances.flatten().tolist())):
        chosen = distances == distance
        count = int(chosen.sum())
        accuracy = float((hits & chosen).sum()) / count
        # Answers about one image are not independent.
        residual = ((hits.double() - accuracy) * chosen).sum(dim=1)
        name = f"distance {distance} ({count:,} answers)"
        values[name] = 100 * accuracy
        errors[name] = 100 * float(residual.square().sum().sqrt()) / count
    level = Level(100 * chance, f"chance level {100 * chance:.2g}")
    return Bars(
        values, "accuracy by distance to the nearest other permutation, %", errors, (level,), True
    )


def _arranged(method: Jigsaw, shuffled: Tensor, cells: Tensor, true: Tensor) -> Tensor:
    """Shuffled tiles ``[B, N, 3, t, t]`` in the cells ``[B, N]`` that were predicted for the
    slots, framed by whether those are the ``true`` ones.
    """
    # arranged[p[i]] = shown[i] is a gather with the inverse of p.
    return _assembled(method, _taken(_framed(shuffled, cells == true), cells.argsort(dim=1)))


def _framed(tiles: Tensor, correct: Tensor) -> Tensor:
    """Tiles ``[B, N, 3, t, t]`` in a green frame if correct, bool ``[B, N]``, else a red one."""
    green, red = (color.to(tiles.device) for color in (frames.GREEN, frames.RED))
    colors = torch.where(correct[..., None], green, red)
    return frames.border(tiles, colors, width=max(1, tiles.shape[-1] // 16))


def _belief_image(tables: Tensor, true: Tensor) -> Tensor:
    """Tables ``[B, N, N]`` as images, brighter = likelier; the true cell of each slot is framed."""
    tiles = tables.shape[-1]
    side = _BELIEF // tiles
    gray = (255 * tables.sqrt()).round().to(torch.uint8).flatten(1)
    squares = gray[:, :, None, None, None].expand(-1, -1, 3, side, side)
    colors = gray[:, :, None].repeat(1, 1, 3)
    is_true = torch.nn.functional.one_hot(true, tiles).flatten(1).bool()[..., None]
    colors = torch.where(is_true, frames.YELLOW.to(colors.device), colors)
    return patches.assemble(frames.border(squares, colors, width=max(1, side // 8)), tiles)


def _assembled(method: Jigsaw, tiles: Tensor) -> Tensor:
    """Tiles uint8 ``[B, N, 3, t, t]`` in reading order as one image each, with gray gaps."""
    return patches.assemble(tiles, method.grid, gap=2, fill=_GAP_GRAY)


def _shuffled(method: Jigsaw, view: JigsawView, tiles: Tensor) -> Tensor:
    """The tiles ``[B, N, 3, t, t]`` in the slots of each image's first permutation."""
    return _taken(tiles, method.orders[view.target[:, 0]])


def _taken(tiles: Tensor, cells: Tensor) -> Tensor:
    """Tiles ``cells`` int64 ``[B, N]`` of each image's own ``[B, N, ...]``."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], cells]
