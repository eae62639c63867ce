"""Tile geometry of the jigsaw task, scaled from the paper's 85 px cells and 64 px tiles."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssltool.errors import UsageError

SMALLEST_TILE = 6


class Geometry(NamedTuple):
    """How an image of side S is cut; all in pixels.

    Attributes:
        cell: Side c of a cell; the cells fill a square of side grid * c.
        tile: Side t of the tile taken from each cell.
        slack: c - t, the range of the tile's random offset.
        jitter: Range d of the channels' own shifts, included in the slack.
    """

    cell: int
    tile: int
    slack: int
    jitter: int


def geometry(side: int, grid: int, gap: bool = True) -> Geometry:
    """Scale the paper's 85 px cells, 64 px tiles and 2 px channel shifts to images of another side.

    Without the gap a tile is its whole cell, which leaves the shortcut of continuing edges open.

    Raises:
        UsageError: Tiles would be under 6 px; the message names the smallest image that works.
    """
    cell = side // grid
    tile = math.floor(64 * cell / 85 + 0.5)
    if tile < SMALLEST_TILE:
        smallest = grid * next(
            c for c in range(cell, 100) if math.floor(64 * c / 85 + 0.5) >= SMALLEST_TILE
        )
        raise UsageError(
            f"{side} px images give {tile} px tiles in a {grid}x{grid} grid; "
            f"type --image-size {smallest} or more, or a smaller --grid"
        )
    return (
        Geometry(cell, tile, cell - tile, math.floor(2 * cell / 85 + 0.5))
        if gap
        else Geometry(cell, cell, 0, 0)
    )
