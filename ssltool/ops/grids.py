"""Regular grids of overlapping patches, and their four directions of prediction.

Letters: B images, C channels, H image side, P patch side, S stride (all in pixels), G patches along
a side. Patch (i, j) starts at pixel row i*S and pixel column j*S.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from ssltool.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["down", "up", "right", "left"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
_LEAST_OFFSETS = 2  # a grid with a single offset is hardly a task


@dataclass(frozen=True)
class Grid:
    """A G x G grid of patches.

    Attributes:
        patch: P.
        stride: S.
        count: G.
    """

    patch: int
    stride: int
    count: int

    @property
    def side(self) -> int:
        """Side H in pixels of the square that the grid fills."""
        return self.patch + (self.count - 1) * self.stride

    @property
    def least_offset(self) -> int:
        """ceil(P / S), the least number of rows between a context and a target that share no pixel.

        A context row i has seen the pixel rows up to i*S + P - 1; a target row i + k starts at
        pixel row (i + k)*S.
        """
        return -(-self.patch // self.stride)


def fit(side: int, patch: int, stride: int) -> Grid:
    """The largest grid inside images of a side; what is left over is a margin.

    Raises:
        UsageError: The grid would have fewer than two legal offsets; the message names an image
            size that works.
    """
    count = (side - patch) // stride + 1 if side >= patch else 0
    grid = Grid(patch, stride, count)
    least = grid.least_offset + _LEAST_OFFSETS
    if count < least:
        needed = replace(grid, count=least).side
        raise UsageError(
            f"{side} px images hold {count}x{count} patches of {patch} px every {stride} px, but "
            f"{least}x{least} are "
            f"needed to predict rows that share no pixel; type --image-size {needed}, or a "
            "smaller --patch and --stride"
        )
    return grid


def cut(images: Tensor, grid: Grid) -> Tensor:
    """Cut all patches of the grid in one copy, centered if the images are larger than it.

    Args:
        images: ``[B, C, H, H]``, any dtype.
        grid: The grid; H is at least its side.

    Returns:
        ``[B, G*G, C, P, P]``, patches in reading order.
    """
    margin = (images.shape[-1] - grid.side) // 2
    square = images[..., margin : margin + grid.side, margin : margin + grid.side]
    windows = square.unfold(2, grid.patch, grid.stride).unfold(
        3, grid.patch, grid.stride
    )  # a view [B, C, G, G, P, P]
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def orient(cells: Tensor, direction: Direction) -> Tensor:
    """Turn a grid so that ``direction`` becomes down.

    Args:
        cells: ``[..., G, G]``.
        direction: ``right`` means that contexts lie on the left of what they predict.

    Returns:
        ``[..., G, G]``, a permutation of the same cells.
    """
    if direction == "down":
        return cells
    if direction == "up":
        return cells.flip(-2)
    across = cells.transpose(-2, -1)
    return across if direction == "right" else across.flip(-2)


def restore(cells: Tensor, direction: Direction) -> Tensor:
    """Undo `orient`."""
    if direction in ("down", "up"):
        return orient(cells, direction)
    return (cells if direction == "right" else cells.flip(-2)).transpose(-2, -1)
