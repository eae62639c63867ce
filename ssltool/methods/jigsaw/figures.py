"""Figures of the jigsaw task: tiles, shuffled tiles, predicted arrangements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.methods.jigsaw.beliefs import belief_tables, best_assignments
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting import frames
from ssltool.plotting.colors import YELLOW
from ssltool.plotting.records import Bars, Level, Matrix, Plot
from ssltool.plotting.sheet import Column, Key, Mark, Sheet, right_wrong, tile_boxes, tile_gap

if TYPE_CHECKING:
    from ssltool.methods.jigsaw.task import Jigsaw, JigsawView

_GAP_GRAY = 200  # between tiles, which may be white
_BATCH = 64
_PERMUTATIONS = 8  # per image in plots; the tiles are encoded once
_TILE = Key(YELLOW, "tile")
_RIGHT, _WRONG = right_wrong("right cell", "wrong cell")
_NUMBERS = "Numbers: the cell each tile belongs to, in reading order."


def draw_task(method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator) -> Sheet:
    """The image with its tiles outlined, the tiles shuffled, and those as network input."""
    view = method.view(images, index, generator)
    encoded = frames.to_uint8(view.tiles)
    cells = method.orders[view.target[:, 0]]
    return Sheet(
        {
            "image": Column(view.image, _outlines(view)),
            "shuffled tiles": _numbered(method, _taken(view.raw, cells), cells),
            "network input": _numbered(method, _taken(encoded, cells), cells),
        },
        f"Jigsaw: classify which of {len(method.orders):,} permutations shuffled the tiles",
        note=_NUMBERS,
    )


@torch.no_grad()
def draw_predictions(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The shuffled tiles, the arrangement by the likeliest permutation, and the ground truth; that
    by the beliefs about single tiles where it differs.
    """
    view = method.view(images, index, generator)
    logits = method.logits(view).view(len(images), -1, len(method.orders))
    logits = logits[:, 0]  # an image's first permutation
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    true, likeliest = method.orders[view.target[:, 0]], method.orders[predicted]
    assigned = best_assignments(belief_tables(logits, method.orders))
    shuffled = _taken(view.raw, true)
    differs = not torch.equal(assigned, likeliest)
    columns = {
        "shuffled tiles": _numbered(method, shuffled, true),
        "prediction": _arranged(method, shuffled, likeliest, true),
        **({"best assignment": _arranged(method, shuffled, assigned, true)} if differs else {}),
        "ground truth": Column(_assembled(method, view.raw)),
    }
    correct, better = (true == likeliest).sum(dim=1), (true == assigned).sum(dim=1)
    in_set = (assigned[:, None] == method.orders).all(dim=2).any(dim=1)
    facts = (correct, confidence, better, in_set)
    rows = zip(*(values.tolist() for values in facts), strict=True)
    captions = [
        f"{right} of {method.tiles} tiles right, confidence {share:.0%}"
        + (f"; best assignment: {other} right" if differs else "")
        + ("" if known else ", not in the set")
        for right, share, other, known in rows
    ]
    solved = int((correct == method.tiles).sum())
    title = f"Jigsaw: arrangement predicted from {method.tiles} shuffled tiles"
    note = f"{_NUMBERS} {solved} of {len(images)} shown are solved."
    return Predictions(Sheet(columns, title, captions, note))


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
    level = Level(100 * chance, "chance level")
    return Bars(
        values, "accuracy by distance to the nearest other permutation, %", errors, (level,), True
    )


def _outlines(view: JigsawView) -> list[list[Mark]]:
    """The tiles of each image where they are cut, with the numbers of their cells."""
    side, tile = view.image.shape[-1], view.raw.shape[-1] / view.image.shape[-1]
    corners = (view.corner / side).tolist()
    return [
        [Mark(_TILE, (x, y, tile, tile), str(cell + 1)) for cell, (y, x) in enumerate(image)]
        for image in corners
    ]


def _arranged(method: Jigsaw, shuffled: Tensor, cells: Tensor, true: Tensor) -> Column:
    """Shuffled tiles ``[B, N, 3, t, t]`` in the cells ``[B, N]`` that were predicted for the
    slots, framed by whether those are the ``true`` ones.
    """
    slots = cells.argsort(dim=1)  # arranged[p[i]] = shown[i] is a gather with the inverse of p
    return _numbered(method, _taken(shuffled, slots), true.gather(1, slots), framed=True)


def _numbered(method: Jigsaw, tiles: Tensor, cells: Tensor, *, framed: bool = False) -> Column:
    """Tiles ``[B, N, 3, t, t]`` in reading order with the numbers of the cells int64 ``[B, N]``
    that they belong to, framed by whether they are there.
    """
    side = tiles.shape[-1]
    boxes = list(tile_boxes(method.tiles, method.grid, side, tile_gap(side)))

    def key(place: int, cell: int) -> Key | None:
        return (_RIGHT if place == cell else _WRONG) if framed else None

    marks = [
        [Mark(key(place, cell), boxes[place], str(cell + 1)) for place, cell in enumerate(image)]
        for image in cells.tolist()
    ]
    return Column(_assembled(method, tiles), marks)


def _assembled(method: Jigsaw, tiles: Tensor) -> Tensor:
    """Tiles uint8 ``[B, N, 3, t, t]`` in reading order as one image each, with gray gaps."""
    return patches.assemble(tiles, method.grid, tile_gap(tiles.shape[-1]), _GAP_GRAY)


def _taken(tiles: Tensor, cells: Tensor) -> Tensor:
    """Tiles ``cells`` int64 ``[B, N]`` of each image's own ``[B, N, ...]``."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], cells]
