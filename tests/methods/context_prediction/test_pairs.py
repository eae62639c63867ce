"""Geometry and samplers of context prediction against the numbers of the paper and of the released
code.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.errors import UsageError
from ssltool.methods.context_prediction import pairs
from ssltool.methods.context_prediction.geometry import Geometry, geometry, largest_patch
from ssltool.methods.context_prediction.options import Sampler
from ssltool.methods.context_prediction.pairs import (
    POSITIONS,
    grid_size,
    neighbors,
    position_leak,
    sample,
)
from ssltool.ops.per_image_rng import PerImageRNG

PAPER = Geometry(96, 48, 7)
TABLE = {28: ((5, 3, 0), (6, 3, 0)), 32: ((6, 3, 0), (7, 4, 1)), 48: ((8, 4, 1), (11, 6, 1)),
         64: ((11, 6, 1), (15, 8, 1)), 96: ((17, 9, 1), (22, 11, 2)), 128: ((22, 11, 2), (30, 15,
         2)),
         224: ((39, 20, 3), (54, 27, 4)), 256: ((45, 23, 3), (61, 31, 4))}  # fmt: skip


def rng(count: int, seed: int = 0) -> PerImageRNG:
    return PerImageRNG(torch.arange(count), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", TABLE)
def test_geometry_for_images_of_any_side(side: int) -> None:
    assert (tuple(geometry(side, "paper")), tuple(geometry(side, "fit3"))) == TABLE[side]


def test_the_papers_own_geometry() -> None:
    assert geometry(548) == PAPER
    assert PAPER.pitch == 144
    assert PAPER._replace(jitter=0).span(3) == 384


def test_a_block_without_jitter() -> None:
    drawn = pairs.sample_star(rng(1), 384, PAPER._replace(jitter=0), central=True)
    corners = [(x, y) for y, x in drawn.corner[0].tolist()]
    assert corners == [
        (144, 144),
        (0, 0),
        (144, 0),
        (288, 0),
        (0, 144),
        (288, 144),
        (0, 288),
        (144, 288),
        (288, 288),
    ]
    assert drawn.target[0].tolist() == list(range(8))


def test_places_are_in_reading_order_with_rows_first() -> None:
    """Class 2 is the top-right neighbor; transposed code would number it 5."""
    assert [(dx, dy) for dy, dx in POSITIONS] == [
        (-1, -1),
        (0, -1),
        (1, -1),
        (-1, 0),
        (1, 0),
        (-1, 1),
        (0, 1),
        (1, 1),
    ]
    opposite = [POSITIONS.index((-dy, -dx)) for dy, dx in POSITIONS]
    assert opposite == [7 - place for place in range(8)]
    mirrored = [POSITIONS.index((dy, -dx)) for dy, dx in POSITIONS]
    assert mirrored == [2, 1, 0, 4, 3, 7, 6, 5]
    flipped = [POSITIONS.index((-dy, dx)) for dy, dx in POSITIONS]
    assert flipped == [5, 6, 7, 3, 4, 0, 1, 2]


@pytest.mark.parametrize(
    ("width", "height", "origin", "size"),
    [
        (640, 480, 0, (4, 3)),
        (640, 480, 143, (3, 2)),
        (500, 375, 0, (3, 2)),
        (500, 375, 100, (3, 2)),
    ],
)
def test_grid_sizes_of_the_released_code(
    width: int, height: int, origin: int, size: tuple[int, int]
) -> None:
    assert (grid_size(width, origin, PAPER), grid_size(height, origin, PAPER)) == size


def test_pairs_of_a_grid_are_those_of_the_released_code() -> None:
    assert [len(found) for found in neighbors(3)] == [4, 6, 4, 6, 6, 4, 6, 4]
    assert [len(found) for found in neighbors(2)] == [1, 2, 1, 2, 2, 1, 2, 1]
    assert sum(len(found) for found in neighbors(4)) == 84


def test_corners_are_kept_inside_the_image() -> None:
    """Corner 545 + 7 of a 640 px image becomes 544."""
    drawn = pairs._jittered(rng(500), torch.full((1, 1, 2), 545), 640, PAPER)
    assert int(drawn.max()) == 544
    assert int(drawn.min()) == 538


@pytest.mark.parametrize("sampler", ["grid", "pair", "all8", "center"])
@settings(max_examples=15)
@given(side=st.integers(23, 160), seed=st.integers(0, 50))
def test_every_pair_is_where_its_place_says(sampler: Sampler, side: int, seed: int) -> None:
    sizes = geometry(side, "fit3")
    drawn = sample(sampler, rng(16, seed), side, sizes, pairs=8)
    assert int(drawn.corner.min()) >= 0
    assert int(drawn.corner.max()) <= side - sizes.patch
    images = torch.arange(16)[:, None]
    step = drawn.corner[images, drawn.second] - drawn.corner[images, drawn.first]
    ideal = torch.tensor(POSITIONS)[drawn.target] * sizes.pitch
    assert int((step - ideal).abs().max()) <= 2 * sizes.jitter + 1
    # The gap never closes: neighbors share no pixel.
    assert (step.abs().amax(dim=-1) >= sizes.patch + sizes.gap - 2 * sizes.jitter - 1).all()


@pytest.mark.parametrize("side", [28, 96, 548])
def test_a_grid_uses_every_ordered_pair_once(side: int) -> None:
    sizes = geometry(side, "paper" if side > 64 else "fit3")
    sampled = pairs.sample_grid(rng(50), side, sizes)
    assert sampled.corner.shape[1] == 9
    rows = torch.stack([sampled.first, sampled.second, sampled.target], dim=-1)
    expected = {(int(a), int(b), y) for y, each in enumerate(neighbors(3)) for a, b in each}
    assert len(expected) == 40
    assert all(sorted(map(tuple, image.tolist())) == sorted(expected) for image in rows)


def test_a_part_of_the_pairs_has_the_shares_of_all() -> None:
    """Pairs that are left out are chosen without regard to their position: no position leaks more
    than it does with all pairs.
    """
    sizes = geometry(256)
    target = pairs.sample_grid(rng(6000), 256, sizes, 8).target
    shares = target.flatten().bincount(minlength=8) / target.numel()
    expected = torch.tensor(pairs.label_shares("grid", 256, sizes))
    assert torch.allclose(shares, expected, atol=0.01)
    assert torch.allclose(expected, torch.tensor([4, 6, 4, 6, 6, 4, 6, 4]) / 40)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(254, 900), st.integers(254, 900)), min_size=1, max_size=6),
    st.integers(8, 30),
    st.integers(0, 50),
)
def test_grids_of_images_of_any_size(sides: list[tuple[int, int]], count: int, seed: int) -> None:
    height, width = torch.tensor(sides).unbind(dim=1)
    sampled = pairs.sample_grids(rng(len(sides), seed), height, width, PAPER, count, 40)
    assert sampled.corner.shape == (len(sides), count, 2)
    extent = torch.stack([height, width], dim=-1)[:, None]
    assert (sampled.corner >= 0).all()
    assert (sampled.corner + PAPER.patch <= extent).all()
    images = torch.arange(len(sides))[:, None]
    step = sampled.corner[images, sampled.second] - sampled.corner[images, sampled.first]
    ideal = torch.tensor(POSITIONS)[sampled.target] * PAPER.pitch
    assert int((step - ideal).abs().max()) <= 2 * PAPER.jitter


def test_grids_have_the_sizes_of_the_released_code() -> None:
    """Every origin at which two patches fit is sampled, and each grid is as large as fits there."""
    count = 4000
    height, width = torch.full((count,), 474), torch.full((count,), 632)
    sizes = PAPER._replace(jitter=0)
    corner = pairs.sample_grids(rng(count), height, width, sizes, 12, 8).corner
    first = corner[:, 0]
    for axis, side in ((0, 474), (1, 632)):
        assert set(first[:, axis].tolist()) == set(range(144))
        along = (corner[..., axis] - first[:, None, axis]).div(144).long()
        expected = torch.tensor([grid_size(side, int(o), sizes) for o in first[:, axis]])
        cells = torch.tensor(
            [grid_size(474, int(y), sizes) * grid_size(632, int(x), sizes) for y, x in first]
        )
        assert (along[cells == 12].amax(dim=1) + 1 == expected[cells == 12]).all()


def test_the_pair_sampler_is_uniform_over_the_eight_places() -> None:
    """A public sampler never draws the last class, another counts clockwise."""
    drawn = pairs.sample_pairs(rng(10_000), 256, geometry(256), 8)
    counts = drawn.target.flatten().bincount(minlength=8)
    assert (counts - 10_000).abs().max() <= 400


def test_every_jitter_and_origin_is_drawn() -> None:
    sizes = geometry(256)
    corner = pairs.sample_grid(rng(4000), 256, sizes).corner
    assert int(corner.min()) == 0
    assert int(corner.max()) == 256 - sizes.patch
    step = corner[:, 1, 1] - corner[:, 0, 1] - sizes.pitch
    assert set(step.tolist()) >= set(range(-2 * sizes.jitter + 1, 2 * sizes.jitter))


@pytest.mark.parametrize(
    ("side", "sizes", "center", "all8", "pair", "grid"),
    [
        (256, (45, 23, 3), 1.00, 0.96, 0.29, 0.22),
        (96, (17, 9, 1), 1.00, 0.97, 0.29, 0.22),
        (32, (7, 4, 1), 1.00, 1.00, 0.43, 0.28),
    ],
)
def test_how_much_the_place_alone_gives_away(
    side: int, sizes: tuple[int, int, int], center: float, all8: float, pair: float, grid: float
) -> None:
    """A first patch fixed in the middle gives the answer away altogether; the grid leaks least."""
    found = {
        sampler: position_leak(sampler, side, Geometry(*sizes))
        for sampler in ("center", "all8", "pair", "grid")
    }
    assert found["center"] == pytest.approx(center, abs=0.02)
    assert found["all8"] == pytest.approx(all8, abs=0.03)
    assert found["pair"] == pytest.approx(pair, abs=0.03)
    assert 1 / 8 < found["grid"] <= grid + 0.01


def test_images_too_small_are_refused_with_the_size_that_works() -> None:
    with pytest.raises(UsageError, match="--image-size 21"):
        geometry(16, "fit3")
    assert geometry(21, "fit3").patch == 5
    assert largest_patch(21, 3) == 5
    assert largest_patch(2, 3) == 0


def test_paper_patch_follows_the_root_of_the_area() -> None:
    assert geometry(round(math.sqrt(150_000))).patch == 68
