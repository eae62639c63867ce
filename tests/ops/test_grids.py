from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import UsageError
from ssltool.ops import grids
from ssltool.ops.grids import DIRECTIONS, Direction, Grid, fit

CORNERS = [  # image, patch, stride, last corner, G, least offset
    (256, 64, 32, 192, 7, 2),
    (260, 80, 36, 180, 6, 3),
    (64, 16, 8, 48, 7, 2),
    (32, 8, 4, 24, 7, 2),
    (28, 8, 4, 20, 6, 2),
    (30, 10, 5, 20, 5, 2),
    (65, 20, 9, 45, 6, 3),
]


@pytest.mark.parametrize(("side", "patch", "stride", "last", "count", "least"), CORNERS)
def test_geometry_of_the_papers(
    side: int, patch: int, stride: int, last: int, count: int, least: int
) -> None:
    grid = fit(side, patch, stride)
    assert (grid.count, grid.side, grid.least_offset) == (count, side, least)
    assert (count - 1) * stride == last


def test_what_is_left_over_is_a_margin() -> None:
    assert fit(257, 64, 32) == fit(256, 64, 32)
    assert fit(287, 64, 32).side == 256
    assert fit(288, 64, 32).side == 288


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_least_offset_is_the_first_without_a_shared_pixel(patch: int, stride: int) -> None:
    k = Grid(patch, stride, 9).least_offset
    first_pixel_of_target, last_pixel_of_context = k * stride, patch - 1
    assert first_pixel_of_target > last_pixel_of_context
    assert (k - 1) * stride <= last_pixel_of_context


def test_grids_with_hardly_a_task_are_refused_with_a_size_that_works() -> None:
    with pytest.raises(
        UsageError, match=r"3x3 patches of 14 px every 7 px, but 4x4.*--image-size 35"
    ):
        fit(28, 14, 7)
    assert fit(35, 14, 7).count == 4
    with pytest.raises(UsageError, match="0x0"):
        fit(10, 16, 8)


@pytest.mark.parametrize("side", [28, 31])
def test_cut_patches_are_those_of_a_loop(side: int) -> None:
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    grid = Grid(8, 4, 6)
    found = grids.cut(images, grid)
    margin = (side - 28) // 2
    assert found.shape == (2, 36, 3, 8, 8)
    for i in range(6):
        for j in range(6):
            y, x = margin + 4 * i, margin + 4 * j
            assert torch.equal(found[:, 6 * i + j], images[:, :, y : y + 8, x : x + 8])


EXPECTED: dict[Direction, list[list[int]]] = {
    "down": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
    "up": [[6, 7, 8], [3, 4, 5], [0, 1, 2]],
    "right": [[0, 3, 6], [1, 4, 7], [2, 5, 8]],
    "left": [[2, 5, 8], [1, 4, 7], [0, 3, 6]],
}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_direction_turns_the_grid_so_that_travel_is_downwards(direction: Direction) -> None:
    cells = torch.arange(9).view(3, 3)
    assert grids.orient(cells, direction).tolist() == EXPECTED[direction]
    assert torch.equal(grids.restore(grids.orient(cells, direction), direction), cells)
    assert torch.equal(grids.orient(grids.restore(cells, direction), direction), cells)


def test_left_does_not_travel_rightwards() -> None:
    """The public bug: a flip along the wrong axis gives 630 741 852, which still meets column 0
    first.
    """
    assert grids.orient(torch.arange(9).view(3, 3), "left")[0].tolist() == [2, 5, 8]
