"""Bins, soft targets, weights and decoding against the numbers of the paper's release and known
faults of its ports.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.ab_bins import SoftTarget
from ssltool.ops.lab import rgb_to_lab

CENTERS = ab_bins.bin_centers(10)
Q = len(CENTERS)


def dense(target: SoftTarget) -> Tensor:
    """Shares over all bins, ``[..., Q]``."""
    return torch.zeros(*target.shares.shape[:-1], Q).scatter_add(-1, target.bins, target.shares)


def variation(a: SoftTarget, b: SoftTarget) -> Tensor:
    return (dense(a) - dense(b)).abs().sum(dim=-1) / 2


def colors(count: int = 20_000) -> Tensor:
    """(a, b) of random sRGB colors, float32 ``[n, 2]``."""
    rgb = torch.rand(3, 1, count, generator=torch.Generator().manual_seed(0))
    return rgb_to_lab(rgb)[1:, 0].T


def reference(ab: tuple[float, float], neighbors: int, sigma: float = 5.0) -> dict[int, float]:
    """Bin -> share, float64, by a plain search; the lowest of equally near bins first."""
    squares = ((CENTERS.numpy() - np.array(ab)) ** 2).sum(axis=1)
    nearest = sorted(range(Q), key=lambda q: (squares[q], q))[:neighbors]
    shares = np.exp(-squares[nearest] / (2 * sigma**2))
    return dict(zip(nearest, (shares / shares.sum()).tolist(), strict=True))


def shared(target: SoftTarget) -> dict[int, float]:
    return dict(zip(target.bins.tolist(), target.shares.tolist(), strict=True))


def test_the_bins_are_the_published_ones_in_their_order() -> None:
    assert CENTERS.shape == (313, 2)
    text = "".join(f"{int(a)},{int(b)}\n" for a, b in CENTERS.tolist())
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "0ab51d12979b4804c7650e3b5b1b60f60288f416b6b3b780dd808db52a86cee1"
    assert [CENTERS[i].tolist() for i in (0, 120, 312)] == [[-90, 50], [0, 0], [100, 0]]
    assert CENTERS.sum(dim=0).tolist() == [4910, 2090]
    columns = [int((CENTERS[:, 0] == a).sum()) for a in range(-90, 101, 10)]
    assert columns == [5, 8, 10, 12, 14, 15, 16, 16, 17, 18, 18, 18, 19, 20, 19, 20, 20, 19, 19, 10]


@pytest.mark.parametrize(
    ("step", "count"), [(5, 1083), (8, 460), (15, 159), (20, 101), (25, 72), (30, 54)]
)
def test_other_steps(step: int, count: int) -> None:
    centers = ab_bins.bin_centers(step)
    assert len(centers) == count
    assert (centers % step == 0).all()
    assert centers.tolist() == sorted(centers.tolist())


@given(st.integers(5, 30))
@settings(max_examples=15)
def test_every_color_lies_between_four_bins(step: int) -> None:
    known = {tuple(pair) for pair in ab_bins.bin_centers(step).tolist()}
    lower = (colors(2000).double() / step).floor() * step
    for corner in ((0, 0), (0, step), (step, 0), (step, step)):
        assert {tuple(pair) for pair in (lower + torch.tensor(corner)).tolist()} <= known


@pytest.mark.parametrize(
    ("ab", "neighbors", "expected"),
    [
        ((3, 4), 5, {120: 0.406239, 121: 0.272310, 139: 0.182535, 140: 0.122357, 102: 0.016559}),
        ((-42.3, 17.8), 5, {55: 0.545609, 40: 0.185286, 54: 0.178021, 39: 0.060455, 56: 0.030628}),
        ((0, 0), 5, {120: 0.648786, **dict.fromkeys((102, 119, 121, 139), 0.087804)}),
        ((98.2331, -60.8210), 5, {306: 0.620599, 289: 0.170280, 305: 0.116639, 307: 0.060478,
        288: 0.032003}),
        ((5, 0), 5, {120: 0.415627, 139: 0.415627, 119: 0.056249, 121: 0.056249, 138: 0.056249}),
        ((3, 4), 10, {120: 0.393630, 121: 0.263858, 139: 0.176869, 140: 0.118559, 102: 0.016045,
        103: 0.010755,
                      119: 0.010755, 138: 0.004833, 122: 0.003239, 141: 0.001456}),
        ((0, 0), 10, {120: 0.619218, **dict.fromkeys((102, 119, 121, 139), 0.083802),
                      **dict.fromkeys((101, 103, 138, 140), 0.011341), 85: 0.000208}),
    ],
)  # fmt: skip
def test_soft_targets_by_hand(
    ab: tuple[float, float], neighbors: int, expected: dict[int, float]
) -> None:
    found = ab_bins.encode_exact(torch.tensor(ab, dtype=torch.float32), CENTERS, neighbors, 5.0)
    assert shared(found) == pytest.approx(expected, abs=2e-6)
    assert shared(found) == pytest.approx(reference(ab, neighbors), abs=2e-6)


@given(st.floats(-86, 98), st.floats(-107, 94), st.sampled_from([1, 5, 10]))
def test_exact_is_a_plainretrieve(a: float, b: float, neighbors: int) -> None:
    ab = torch.tensor([a, b], dtype=torch.float64)
    found = ab_bins.encode_exact(ab, CENTERS, neighbors, 5.0)
    assert shared(found) == pytest.approx(reference((a, b), neighbors), abs=5e-6)


def test_dense_is_near_exact() -> None:
    ab = colors()
    exact, all_share = (
        ab_bins.encode_exact(ab, CENTERS, 10, 5.0),
        ab_bins.encode_dense(ab, CENTERS, 5.0),
    )
    assert variation(exact, all_share).max() <= 0.0092
    assert variation(exact, all_share).mean() < 0.0025
    assert torch.equal(exact.nearest, all_share.nearest)


def test_the_table_is_near_exact_and_names_the_right_bin() -> None:
    # A lattice centered on whole numbers names a wrong nearest bin for 9 % of the colors.
    ab = colors()
    exact = ab_bins.encode_exact(ab, CENTERS, 10, 5.0)
    table = ab_bins.look_up(ab, ab_bins.build_table(10, 10, 5.0), 10)
    assert variation(exact, table).max() <= 0.035
    assert variation(exact, table).mean() < 0.017
    assert torch.equal(exact.nearest, table.nearest)


@pytest.mark.parametrize(("step", "neighbors"), [(10, 5), (20, 10), (25, 5)])
def test_the_tables_cells_hold_the_exact_targets_of_their_middles(
    step: int, neighbors: int
) -> None:
    centers, sigma = ab_bins.bin_centers(step), step / 2
    table = ab_bins.build_table(step, neighbors, sigma)
    cells = torch.randint(0, len(table.bins), (3000, 2), generator=torch.Generator().manual_seed(0))
    middles = (cells - len(table.bins) // 2 + 0.5) * (step / 20)
    exact = ab_bins.encode_exact(middles.double(), centers, neighbors, sigma)
    found = ab_bins.look_up(middles, table, step)
    assert torch.equal(found.bins, exact.bins)
    assert torch.allclose(found.shares, exact.shares, atol=1e-6)


def test_floors_of_the_loss() -> None:
    for neighbors, mean, least, most in ((10, 1.438, 1.27, 1.528), (5, 1.257, 1.13, 1.412)):
        entropy = ab_bins.encode_exact(colors(), CENTERS, neighbors, 5.0).entropy
        assert entropy.mean().item() == pytest.approx(mean, abs=0.005)
        assert least < entropy.min()
        assert entropy.max() < most


@pytest.mark.parametrize("kind", ["exact", "dense"])
def test_sparse_cross_entropy_is_the_dense_one(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, Q, 4, 5, generator=generator)).requires_grad_()
    ab = colors(40).view(2, 4, 5, 2)
    target = (
        ab_bins.encode_exact(ab, CENTERS, 10, 5.0)
        if kind == "exact"
        else ab_bins.encode_dense(ab, CENTERS, 5.0)
    )
    found = ab_bins.soft_cross_entropy(logits, target)
    expected = torch.nn.functional.cross_entropy(
        logits, dense(target).movedim(-1, 1), reduction="none"
    )
    assert torch.allclose(found, expected, atol=1e-5)
    slopes = [torch.autograd.grad(value.sum(), logits)[0] for value in (found, expected)]
    assert torch.allclose(*slopes, atol=1e-6)


def test_uniform_logits_cost_the_logarithm_of_the_bins() -> None:
    target = ab_bins.encode_exact(colors(12).view(1, 3, 4, 2), CENTERS, 10, 5.0)
    assert ab_bins.soft_cross_entropy(
        torch.zeros(1, Q, 3, 4), target
    ).flatten().tolist() == pytest.approx([5.746203] * 12, abs=1e-5)


@pytest.mark.parametrize(
    ("neighbors", "shares", "used", "weights"),
    [
        (10, (0.408017, 0.107866, 0.129631), 22, (0.17158, 0.63529, 0.53119, 22.08402)),
        (5, (0.425953, 0.111979, 0.136402), 11, (0.23112, 0.86116, 0.71050, 31.04449)),
    ],
)
def test_prior_of_four_pixels(
    neighbors: int, shares: tuple[float, ...], used: int, weights: tuple[float, ...]
) -> None:
    ab = torch.tensor([[0, 0], [0, 0], [3, 4], [-42.3, 17.8]], dtype=torch.float64)
    prior = ab_bins.total(ab_bins.encode_exact(ab, CENTERS, neighbors, 5.0), Q) / 4
    assert prior[[120, 121, 55]].tolist() == pytest.approx(shares, abs=1e-6)
    assert int((prior > 0).sum()) == used
    found = ab_bins.rebalancing_weights(prior, 0.5)
    assert found[[120, 121, 55, 0]].tolist() == pytest.approx(weights, rel=1e-4)


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [
        (0.5, (0.717540, 1.514806, 1.947608, 2.726651)),
        (0.25, (0.595162, 1.645449, 2.542966, 5.594526)),
        (1.0, (1, 1, 1, 1)),
    ],
)
def test_weights_by_hand(mixing: float, expected: tuple[float, ...]) -> None:
    prior = torch.tensor([0.7, 0.2, 0.1, 0], dtype=torch.float64)
    weights = ab_bins.rebalancing_weights(prior, mixing)
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)
    assert (prior * weights).sum().item() == pytest.approx(1)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda p: sum(p) > 0.01),
    st.floats(0.01, 1),
)
def test_weights_are_finite_and_average_to_one(counts: list[float], mixing: float) -> None:
    # The release spreads lambda over the bins that were seen, and one never seen gets the weight
    # 1/0.
    prior = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    weights = ab_bins.rebalancing_weights(prior, mixing)
    assert weights.isfinite().all()
    assert (prior * weights).sum().item() == pytest.approx(1)
    ratio = 1 + (1 - mixing) / mixing * len(counts) * float(prior.max())
    if (prior == 0).any():
        assert float(weights.max() / weights.min()) == pytest.approx(ratio)


def test_smoothing_of_a_single_bin() -> None:
    histogram = torch.zeros(Q, dtype=torch.float64)
    histogram[120] = 1
    found = ab_bins.smoothed(histogram, CENTERS, 5.0)
    by_offset = {tuple(c): v for c, v in zip(CENTERS.int().tolist(), found.tolist(), strict=True)}
    assert by_offset[0, 0] == pytest.approx(0.618693, abs=1e-6)
    assert [by_offset[c] for c in ((10, 0), (-10, 0), (0, 10), (0, -10))] == pytest.approx(
        [0.083731] * 4, abs=1e-6
    )
    assert [by_offset[c] for c in ((10, 10), (-10, 10), (10, -10))] == pytest.approx(
        [0.011332] * 3, abs=1e-6
    )
    assert [by_offset[c] for c in ((20, 0), (0, -20))] == pytest.approx([0.000208] * 2, abs=1e-6)
    weights = ab_bins.rebalancing_weights(found, 0.5)
    assert weights[[120, 121, 140, 0]].tolist() == pytest.approx(
        [0.194158, 1.389052, 8.311940, 37.793088], rel=1e-4
    )
    assert float(weights.max() / weights.min()) == pytest.approx(194.651, abs=1e-2)


def test_smoothing_keeps_within_the_plane_and_keeps_the_sum() -> None:
    # Along the numbers of the bins the end of a column, (-90, 90), would spill into the next one's
    # start, (-80, 20).
    histogram = torch.zeros(Q, dtype=torch.float64)
    histogram[4] = 1
    assert CENTERS[[4, 5]].tolist() == [[-90, 90], [-80, 20]]
    found = ab_bins.smoothed(histogram, CENTERS, 5.0)
    assert found[5] < 1e-12
    assert found.sum().item() == pytest.approx(1)


def logits_of(shares: tuple[float, ...]) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64).log().view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("shares", "centers", "temperature", "expected"),
    [
        ((0.5, 0.3, 0.2), ((0, 0), (60, 40), (-40, 20)), 1.0, (10, 16)),
        ((0.5, 0.3, 0.2), ((0, 0), (60, 40), (-40, 20)), 0.38, (8.92732, 9.05129)),
        ((0.5, 0.3, 0.2), ((0, 0), (60, 40), (-40, 20)), 0.05, (0.00219, 0.00146)),
        ((0.5, 0.3, 0.2), ((0, 0), (60, 40), (-40, 20)), 0.0, (0, 0)),
        ((0.6, 0.4), ((0, 0), (50, 40)), 0.38, (12.79857, 10.23886)),
        ((0.4, 0.6), ((0, 0), (50, 40)), 0.0, (50, 40)),
    ],
)
def test_decoding_by_hand(
    shares: tuple[float, ...],
    centers: tuple[tuple[int, int], ...],
    temperature: float,
    expected: tuple[float, float],
) -> None:
    bins = torch.tensor(centers, dtype=torch.float64)
    found = ab_bins.decode_logits(logits_of(shares), bins, temperature)
    assert found.shape == (1, 2, 1, 1)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-4)
    again = ab_bins.decode_probabilities(logits_of(shares).exp(), bins, temperature)
    assert again.flatten().tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, (2.88333, 3.94667)), (0.38, (1.08425, 2.58682))]
)
def test_decoding_a_target(temperature: float, expected: tuple[float, float]) -> None:
    shares = dense(ab_bins.encode_exact(torch.tensor([3.0, 4.0]), CENTERS, 5, 5.0)).view(
        1, -1, 1, 1
    )
    found = ab_bins.decode_probabilities(shares, CENTERS, temperature)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_what_quantising_costs() -> None:
    ab = colors(4000)
    shares = dense(ab_bins.encode_exact(ab, CENTERS, 10, 5.0))[:, :, None, None]
    for temperature, mean, most in ((1.0, 0.24, 0.38), (0.38, 1.81, 2.72)):
        error = (ab_bins.decode_probabilities(shares, CENTERS, temperature)[:, :, 0, 0] - ab).norm(
            dim=1
        )
        assert error.mean().item() == pytest.approx(mean, abs=0.02)
        assert error.max() < most


def test_probabilities_taken_for_logits_are_gray() -> None:
    # The known fault: softmax of probabilities is nearly uniform, and the image turns gray whatever
    # was answered.
    shares = dense(ab_bins.encode_exact(torch.tensor([60.0, 50.0]), CENTERS, 10, 5.0)).view(
        1, -1, 1, 1
    )
    right = ab_bins.decode_probabilities(shares, CENTERS, 1.0)
    wrong = ab_bins.decode_logits(shares, CENTERS, 1.0)
    assert right.norm() > 70
    assert wrong.norm() < 20


def test_area_under_the_curve() -> None:
    error = torch.tensor([0.0, 15, 75, 200])
    assert ab_bins.area_under_curve(error).tolist() == pytest.approx(
        [1, 0.903333, 0.503333, 0], abs=1e-6
    )


@given(st.lists(st.floats(0, 250), min_size=1, max_size=30))
def test_the_area_is_that_of_the_trapezoids(errors: list[float]) -> None:
    values = np.array(errors, dtype=np.float32)
    curve = [(values <= most).mean() for most in range(151)]
    expected = np.trapezoid(curve) / 150
    assert ab_bins.area_under_curve(torch.from_numpy(values)).mean().item() == pytest.approx(
        expected, abs=1e-5
    )
