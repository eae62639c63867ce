"""Audit of the jigsaw task: edges, chromatic offset, brightness, sharpness, position by itself.

Noroozi & Favaro 2016, section 4.2: without a gap, without standardization and without channel
jitter the puzzle is solved from low-level statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.auditing import (
    BASE,
    BORDER_ELSEWHERE,
    BORDER_IN_PLACE,
    CHANCE,
    EDGES,
    IMAGE_CHANGES,
    IMAGE_COMPARISONS,
    PATCH_CHANGES,
    PATCH_COMPARISONS,
    Comparison,
    Condition,
    ImageChange,
    PatchChange,
    Plan,
    batched,
    constant,
    probe,
    replaced,
    seeded,
    training_view,
)
from ssltool.ops import interventions, low_level
from ssltool.ops.per_image_rng import PerImageRNG

if TYPE_CHECKING:
    from ssltool.methods.jigsaw.task import Jigsaw

_PERMUTATIONS = 8  # per image; the tiles are encoded once


def plan(method: Jigsaw, seed: int) -> Plan:
    """Accuracy of the permutation under interventions on tiles, and probes of single tiles."""
    score = partial(_condition, method, seed)
    conditions: dict[str, Condition] = {
        BASE: score(),
        BORDER_IN_PLACE: score(tiles=partial(_foreign_border, elsewhere=False)),
        BORDER_ELSEWHERE: score(tiles=partial(_foreign_border, elsewhere=True)),
        CHANCE: constant(1 / len(method.orders)),
        **{name: score(tiles=change) for name, change in PATCH_CHANGES.items()},
        **{name: score(image=change) for name, change in IMAGE_CHANGES.items()},
        "1 in N": constant(1 / method.tiles),
        "most frequent position": constant(_most_frequent(method.grid)),
        "cell by mean color": _cell_probe(method, seed, low_level.color_moments),
        "cell by channel offsets": _cell_probe(method, seed, low_level.channel_offsets),
        "neighbor by border pixels": _neighbor_probe(method, seed),
        "cell by the tile's vector": _position_probe(method, seed),
    }
    comparisons = [EDGES, *PATCH_COMPARISONS, *IMAGE_COMPARISONS]
    for guard, option in (("gap", "gap"), ("standardization", "standardize")):
        if getattr(method.options, option):  # a network trained without it knows no other input
            conditions[f"no {guard}"] = score(options={option: False})
            comparisons.append(Comparison(f"{guard} off", "guard", f"no {guard}", BASE))
    measure = "accuracy of the probe"
    comparisons += [
        Comparison("mean color of a tile", "probe", "cell by mean color", "1 in N", measure),
        Comparison("chromatic offset", "probe", "cell by channel offsets", "1 in N", measure, True),
        Comparison(
            "border pixels",
            "probe",
            "neighbor by border pixels",
            "most frequent position",
            measure,
        ),
        Comparison("vector of a tile", "probe", "cell by the tile's vector", "1 in N", measure),
    ]
    return Plan("accuracy", "fraction", conditions, comparisons)


def _condition(
    method: Jigsaw,
    seed: int,
    *,
    tiles: PatchChange | None = None,
    image: ImageChange | None = None,
    options: Mapping[str, bool] = {},
) -> Condition:
    """Share of an image's permutations that are recognized."""

    def score(images: Tensor, index: Tensor) -> Tensor:
        images = image(images) if image else images
        with replaced(method, options=method.options.model_copy(update=options)):
            view = method.view(images, index, seeded(seed))
            if tiles is not None:
                changed = tiles(view.raw.float(), PerImageRNG(index, seeded(seed + 1)))
                view = view._replace(tiles=method.network_input(changed))
        rng = PerImageRNG(index, seeded(seed + 2))
        target = rng.integers(len(method.orders), _PERMUTATIONS)
        predicted = method.logits(view._replace(target=target)).argmax(dim=1)
        return (predicted.view_as(target) == target).double().mean(dim=1)

    return batched(score)


def _foreign_border(tiles: Tensor, rng: PerImageRNG, elsewhere: bool) -> Tensor:
    """The borders of the tiles of the next image of the batch, of the same cells or the next."""
    del rng
    donors = tiles.roll(1, dims=0)
    return interventions.replace_border(tiles, donors.roll(1, dims=1) if elsewhere else donors)


def _training_tiles(method: Jigsaw, seed: int, images: Tensor, index: Tensor) -> Tensor:
    """The network's input in training, guards included: ``[n, N, C, h, h]``."""
    with training_view(method, flip=0.0):
        return method.view(images, index, seeded(seed)).tiles


def _cell_probe(method: Jigsaw, seed: int, statistic: low_level.Statistic) -> Condition:
    """The cell of a tile, from the tile's own statistics."""
    return _probe_of(method, lambda *batch: statistic(_training_tiles(method, seed, *batch)))


def _position_probe(method: Jigsaw, seed: int) -> Condition:
    """The cell of a tile, from the encoder's frozen vector of that tile alone."""

    def encoded(images: Tensor, index: Tensor) -> Tensor:
        tiles = _training_tiles(method, seed, images, index)
        vectors: Tensor = method.encoder(tiles.flatten(0, 1))
        return vectors.view(*tiles.shape[:2], -1)

    return _probe_of(method, encoded)


def _probe_of(method: Jigsaw, vectors: Condition) -> Condition:
    """The cell of a tile, from vectors ``[n, N, D]``."""
    features = batched(vectors)

    def score(images: Tensor, index: Tensor) -> Tensor:
        cells = torch.arange(method.tiles).expand(len(images), -1)
        return probe(features(images, index), cells, method.tiles)

    return score


def _neighbor_probe(method: Jigsaw, seed: int) -> Condition:
    """The position of a neighboring tile, 8 ways, from the pixels that would face each other."""
    first, second, position = _neighbors(method.grid)

    @batched
    def differences(images: Tensor, index: Tensor) -> Tensor:
        tiles = _training_tiles(method, seed, images, index)
        return low_level.border_differences(tiles[:, first], tiles[:, second])

    def score(images: Tensor, index: Tensor) -> Tensor:
        return probe(differences(images, index), position.expand(len(images), -1), 8)

    return score


def _most_frequent(grid: int) -> float:
    """Share of the most frequent position: straight neighbors are more than diagonal ones."""
    position = _neighbors(grid)[2]
    return float(position.bincount().max()) / len(position)


def _neighbors(grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """All ordered pairs of neighboring cells and the position of the second, int64 ``[M]`` each."""
    y, x = torch.arange(grid**2) // grid, torch.arange(grid**2) % grid
    dy, dx = y[None] - y[:, None], x[None] - x[:, None]
    near = (dy.abs() <= 1) & (dx.abs() <= 1) & ((dy != 0) | (dx != 0))
    first, second = near.nonzero().unbind(dim=1)
    number = 3 * (dy[near] + 1) + dx[near] + 1
    return first, second, number - (number > 4).long()
