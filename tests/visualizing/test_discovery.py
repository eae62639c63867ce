"""Object discovery: the square fit by hand, and planted objects."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ssltool.errors import UsageError
from ssltool.visualizing.discovery import _Grid, discover, draw_discovery, fit_square, purity

SQUARE = torch.tensor([[0.0, 0.0], [0.0, 96.0], [96.0, 0.0], [96.0, 96.0]])


def fitted(centers: torch.Tensor) -> tuple[float, float, bool]:
    fit = fit_square(centers.double(), 96)
    return float(fit.side), float(fit.error), bool(fit.verified)


def test_squares_by_hand() -> None:
    assert fitted(SQUARE) == (96, 0, True)
    moved = SQUARE.clone()
    moved[1, 1] = 144  # the upper right center, half a side to the right
    side, error, verified = fitted(moved)
    assert side == 108
    assert error == pytest.approx(0.1235, abs=1e-4)
    assert verified
    side, error, verified = fitted(1.6 * SQUARE)
    assert side == 128  # 153.6, limited to 4/3 of a patch
    assert error == pytest.approx(0.08, abs=1e-4)
    assert verified
    side, error, verified = fitted(SQUARE[[1, 0, 3, 2]])  # left and right exchanged
    assert (side, error, verified) == (64, pytest.approx(6.5), False)
    assert fitted(torch.full((4, 2), 50.0)) == (64, pytest.approx(2.0), False)


@given(st.lists(st.floats(-200, 200), min_size=8, max_size=8))
def test_no_other_square_fits_better(values: list[float]) -> None:
    centers = torch.tensor(values, dtype=torch.float64).view(4, 2)
    fit = fit_square(centers, 96)
    corners = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]]) / 2

    def squared(center: torch.Tensor, side: float) -> float:
        return float((centers - center - side * corners).square().sum())

    best = squared(fit.center, float(fit.side))
    for side in torch.linspace(64, 128, 17).tolist():
        assert best <= squared(fit.center, side) + 1e-6
    for step in torch.eye(2, dtype=torch.float64):
        assert best <= squared(fit.center + step, float(fit.side)) + 1e-6


def test_a_planted_object_is_discovered() -> None:
    """Twelve of forty images have one constellation of four directions, at its own place in each;
    everything else is random.
    """
    grid = _Grid.of(32, 8)
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(40, grid.cells**2, 64, generator=generator), dim=2)
    planted = F.normalize(torch.randn(4, 64, generator=generator), dim=1)
    places = []
    for image in range(12):
        row, column = torch.randint(0, grid.cells - 2, (2,), generator=generator).tolist()
        places.append([row, column])
        for part, (down, right) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2))):
            vectors[image, (row + down) * grid.cells + column + right] = planted[part]
    discovered = discover(vectors, grid, 400, seed=1)
    labels = (torch.arange(40) >= 12).long()
    hits = [
        number
        for number, image in enumerate(discovered.image.tolist())
        if image < 12 and discovered.cell[number].tolist() == places[image]
    ]
    assert hits
    for number in hits:
        others = set(range(12)) - {int(discovered.image[number])}
        assert set(discovered.members[number][:11].tolist()) == others
    assert all(discovered.verified[number][:11].all() for number in hits)
    assert max(hits) < 40  # of 400, ranked by the number of images that verify them
    counts = discovered.verified.sum(dim=1)
    assert (counts[:-1] >= counts[1:]).all()
    assert 0 <= purity(discovered, labels) <= 1


@pytest.mark.slow
def test_the_figure_and_its_measures(run: Path, tmp_path: Path) -> None:
    result = draw_discovery(
        run, tmp_path / "found.png", data=("demo:40",), images=40, constellations=20, count=2
    )
    assert result.path.is_file()
    assert (result.images, result.constellations) == (40, 20)
    assert set(result.verified) == {"jigsaw", "random init"}
    assert all(0 <= value <= 39 for value in result.verified.values())
    assert all(0 <= value <= 1 for value in result.purity.values())
    assert result.purity_chance is not None
    assert math.isclose(result.purity_chance, 0.1, abs_tol=0.02)
    with pytest.raises(UsageError, match="two patches do not fit"):
        draw_discovery(run, tmp_path / "x.png", data=("demo:10",), patch=20)
