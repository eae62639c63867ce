from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.ops.per_image_rng import PerImageRNG, mix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference_splitmix64(state: int) -> int:
    """SplitMix64's output function with Python's unbounded integers."""
    mask = 2**64 - 1
    z = state & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_mix_is_splitmix64_of_the_running_sum() -> None:
    gamma, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    expected = reference_splitmix64(
        (reference_splitmix64((gamma + 5) & mask) + gamma + 7) & mask
    ) & (2**63 - 1)
    assert mix(5, 7) == expected


def test_mix_tells_arguments_apart() -> None:
    seeds = {mix(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900


@settings(max_examples=25)
@given(order=st.permutations(list(range(8))), split=st.integers(1, 7))
def test_a_images_numbers_do_not_depend_on_its_batch(order: list[int], split: int) -> None:
    whole = PerImageRNG(torch.arange(8), generator()).uniform(3, 2)
    index = torch.tensor(order)
    parts = [
        PerImageRNG(part, generator()).uniform(3, 2) for part in (index[:split], index[split:])
    ]
    assert torch.equal(torch.cat(parts), whole[index])


def test_streams_continue_and_keys_change_them() -> None:
    rng = PerImageRNG(torch.arange(4), generator())
    first, second = rng.uniform(2), rng.uniform(2)
    assert not torch.equal(first, second)
    assert torch.equal(
        torch.cat([first, second], dim=1), PerImageRNG(torch.arange(4), generator()).uniform(4)
    )
    assert not torch.equal(first, PerImageRNG(torch.arange(4), generator(1)).uniform(2))


def test_uniform_is_uniform_and_uncorrelated() -> None:
    sample = PerImageRNG(torch.arange(50_000), generator()).uniform(4).double()
    counts = torch.histc(sample, bins=100, min=0, max=1)
    chi2 = float(((counts - 2000) ** 2 / 2000).sum())
    assert 50 < chi2 < 160  # 99 degrees of freedom, deviation 14
    assert float(sample.max()) < 1
    off_diagonal = torch.corrcoef(sample.T) - torch.eye(4, dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 0.02


@pytest.mark.parametrize("high", [1, 2, 7, 24, 1000])
def test_integers_cover_their_range_evenly(high: int) -> None:
    sample = PerImageRNG(torch.arange(20_000), generator()).integers(high, 2).flatten()
    counts = torch.bincount(sample, minlength=high).double()
    assert len(counts) == high
    assert float(((counts - 40_000 / high) ** 2 / (40_000 / high)).sum()) < 2 * high + 40


def test_permutations_are_uniform() -> None:
    permutations = PerImageRNG(torch.arange(3000), generator()).permutation(4)
    assert torch.equal(permutations.sort(dim=1).values, torch.arange(4).expand(3000, 4))
    assert len({tuple(row) for row in permutations.tolist()}) == 24


def test_chance_has_its_probability() -> None:
    share = PerImageRNG(torch.arange(40_000), generator()).bernoulli(0.3).double().mean()
    assert abs(float(share) - 0.3) < 0.01


def test_streams_go_on_from_numbers_drawn_before() -> None:
    seeds = PerImageRNG(torch.arange(4), torch.Generator().manual_seed(0)).bits()
    first, again = PerImageRNG.seeded(seeds).uniform(5), PerImageRNG.seeded(seeds[2:]).uniform(5)
    assert torch.equal(first[2:], again)
    assert len(set(first.flatten().tolist())) == 20


def test_normal_numbers_come_in_fours_and_belong_to_the_image() -> None:
    index = torch.arange(400)

    def drawn(*shape: int, only: slice = slice(None)) -> torch.Tensor:
        return PerImageRNG(index[only], torch.Generator().manual_seed(3)).normal(*shape)

    found = drawn(10, 3, 8)
    assert found.shape == (400, 10, 3, 8)
    assert abs(float(found.mean())) < 0.02
    assert float(found.std()) == pytest.approx(1, abs=0.02)
    assert float((found.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)
    # The four parts of a hash know nothing of each other, nor do their sizes.
    parts = found.flatten(1).unflatten(1, (60, 4)).permute(2, 0, 1).flatten(1)
    for values in (parts, parts.square()):
        assert (torch.corrcoef(values) - torch.eye(4)).abs().max() < 0.025
    # Kolmogorov and Smirnov's distance from the normal distribution, 1.95 / sqrt(n) at 0.1 %.
    ordered = found.flatten().double().sort().values
    shares = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert float((torch.special.ndtr(ordered) - shares).abs().max()) < 1.95 / len(ordered) ** 0.5
    assert torch.equal(drawn(10, 3, 8, only=slice(7, 9)), found[7:9])
    assert drawn(5, 5).shape == (400, 5, 5)


def test_normal_numbers_go_on_where_others_stopped() -> None:
    rng = PerImageRNG(torch.arange(50), torch.Generator().manual_seed(3))
    first, second = rng.normal(7), rng.normal(7)
    assert len(torch.cat([first, second], dim=1).unique()) > 690  # of 700; there are 65,536 values
