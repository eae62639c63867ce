from __future__ import annotations

import pytest
import torch

from ssltool.methods.context_prediction.guards import (
    downsampled,
    downsampled_side,
    downsampling_matrices,
    replace_other_channels,
)
from ssltool.ops import patches
from ssltool.ops.patches import standardize
from ssltool.ops.per_image_rng import PerImageRNG


def test_one_random_channel_of_each_patch_is_kept_and_the_others_are_noise() -> None:
    """Which one is kept is uniform (chi-square on 3,000 patches) and independent for the patches of
    an image.
    """
    planes = standardize(
        torch.rand(1500, 2, 1, 32, 32, generator=torch.Generator().manual_seed(1)), level=0.0
    )
    rng = PerImageRNG(torch.arange(1500), torch.Generator().manual_seed(2))
    channel = rng.integers(3, 2)
    dropped = replace_other_channels(rng, planes, channel)
    deviation = dropped.std(dim=(-1, -2), correction=0)
    kept = deviation.argmax(dim=2)
    assert torch.equal(kept, channel)
    assert torch.equal(
        dropped.gather(2, kept[..., None, None, None].expand(-1, -1, 1, 32, 32)), planes
    )
    assert torch.allclose(deviation.amax(dim=2), torch.ones(()), atol=1e-3)
    others = deviation.sort(dim=2).values[..., :2]
    assert (others - 0.01).abs().max() < 0.001
    counts = kept.flatten().bincount(minlength=3).double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 13.8  # 0.1 % of a chi-square of 2 degrees
    joint = (kept[:, 0] * 3 + kept[:, 1]).bincount(minlength=9).double()
    assert float(((joint - 1500 / 9) ** 2 / (1500 / 9)).sum()) < 26.1  # of 8 degrees
    noise = dropped[0, 0][deviation[0, 0] < 0.5].flatten(1)
    assert not torch.equal(noise[0], noise[1])


def test_downsampling_is_uniform_in_the_number_of_pixels() -> None:
    assert downsampled_side(torch.tensor([0.0, 0.5, 1 - 1e-7]), 96).tolist() == [10, 67, 94]
    sides = downsampled_side(torch.linspace(0, 1 - 1e-6, 100_001), 96).double()
    assert float(sides.mean()) == pytest.approx(63.5, abs=0.1)
    assert float(sides.median()) == 67
    assert float((sides <= 32).double().mean()) == pytest.approx(0.11, abs=0.005)
    assert int(downsampled_side(torch.zeros(1), 32)) == 6


def test_downsampling_agrees_with_resizing_each_patch_down_and_up() -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.rand(2, 3, 3, 24, 24, generator=generator) * 255
    side = torch.tensor([[6, 15, 22], [24, 9, 24]])
    got = downsampled(stack, side, downsampling_matrices(24))
    for b in range(2):
        for n in range(3):
            small = patches.resize(stack[b : b + 1, n : n + 1], int(side[b, n]))
            assert torch.allclose(got[b, n], patches.resize(small, 24)[0, 0], atol=1e-2)
    assert torch.equal(got[1, 0], stack[1, 0])
