from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssltool.methods.cpc import patch_augment
from ssltool.methods.cpc.patch_augment import (
    PRIMITIVES,
    Level,
    augment,
    auto_contrast,
    crop_slack,
    drop_color,
    equalize,
    posterize,
)
from ssltool.ops.per_image_rng import PerImageRNG

LEVELS: tuple[Level, ...] = ("none", "v1", "light", "v2")


def rng(count: int, seed: int = 0) -> PerImageRNG:
    return PerImageRNG(torch.arange(count), torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("side", [8, 9, 16])
def test_values_stay_on_the_scale_and_images_apart(level: Level, side: int) -> None:
    x = noise(6, 9, 3, side, side)
    before = x.clone()
    found = augment(x, level, rng(6))
    assert found.shape == x.shape
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(x, before)
    part = augment(x[4:], level, PerImageRNG(torch.arange(4, 6), torch.Generator().manual_seed(0)))
    assert torch.allclose(part, found[4:], atol=1e-6)
    assert torch.equal(augment(x, level, rng(6)), found)
    assert torch.equal(found, x) == (level == "none")


@pytest.mark.parametrize("level", ["light", "v2"])
def test_each_patch_has_numbers_of_its_own(level: Level) -> None:
    """The public shortcut: one jitter for the whole image leaves all its patches with the same
    cast.
    """
    same = noise(1, 1, 3, 16, 16).expand(2, 9, -1, -1, -1)
    found = augment(same, level, rng(2)).flatten(0, 1)
    distances = torch.cdist(found.flatten(1), found.flatten(1))
    assert float(distances[~torch.eye(18, dtype=torch.bool)].min()) > 0.05


@pytest.mark.parametrize("level", LEVELS)
def test_no_patch_holds_a_piece_of_another(level: Level) -> None:
    """Sample pairing would: a bright patch beside dark ones leaves no trace in them."""
    dark = torch.zeros(20, 9, 3, 8, 8)
    lit = dark.clone()
    lit[:, 4] = noise(20, 3, 8, 8)
    others = [i for i in range(9) if i != 4]
    assert torch.equal(
        augment(dark, level, rng(20))[:, others], augment(lit, level, rng(20))[:, others]
    )


@pytest.mark.parametrize("level", LEVELS)
def test_gray_patches_stay_gray(level: Level) -> None:
    gray = noise(30, 4, 1, 8, 8).expand(-1, -1, 3, -1, -1)
    found = augment(gray, level, rng(30), gray=True)
    assert torch.allclose(found, found[:, :, :1].expand_as(found), atol=1e-5)


def test_dropping_color_keeps_one_channel_and_leaves_gray_alone() -> None:
    x = noise(6, 3, 4, 4)
    which = torch.tensor([True, True, True, False, False, False])
    kept = torch.tensor([0, 1, 2, 0, 1, 2])
    found = drop_color(x, which, kept)
    for i in range(3):
        assert torch.equal(found[i], x[i, i].expand(3, -1, -1))
    assert torch.equal(found[3:], x[3:])
    gray = x[:, :1].expand_as(x)
    assert torch.equal(drop_color(gray, which, kept), gray)


@pytest.mark.parametrize(("side", "slack"), [(64, 4), (80, 5), (32, 2), (16, 1), (8, 1), (24, 2)])
def test_the_crop_is_the_papers_scaled(side: int, slack: int) -> None:
    assert crop_slack(side) == slack


def test_the_crop_is_padded_back_with_its_own_border() -> None:
    x = torch.arange(64.0).view(1, 1, 64, 1).expand(5, 1, 64, 64) / 64
    found = patch_augment.shift_crop(x, torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]]))
    for first in range(5):
        rows = (found[first, 0, :, 0] * 64).round().tolist()
        assert min(rows) == first
        assert max(rows) == first + 59  # a 60 px square
        assert rows == [first] * 2 + list(range(first, first + 60)) + [first + 59] * 2


def test_equalized_values_are_spread_evenly() -> None:
    x = (torch.arange(256.0) / 255).view(1, 1, 16, 16) ** 3
    levels = equalize(x).flatten()
    assert float(levels.min()) >= 0
    assert float(levels.max()) <= 1
    assert torch.equal(levels.sort().values, levels)
    two = torch.tensor([0.2, 0.2, 0.2, 0.9]).view(1, 1, 2, 2)
    assert equalize(two).flatten().tolist() == pytest.approx([1.5 / 4] * 3 + [3.5 / 4])


def test_auto_contrast_by_hand() -> None:
    x = torch.tensor([[0.2, 0.4], [0.3, 0.6]])[None, None]
    assert auto_contrast(x).flatten().tolist() == pytest.approx([0, 0.5, 0.25, 1])
    assert torch.equal(auto_contrast(torch.full((1, 1, 2, 2), 0.3)), torch.full((1, 1, 2, 2), 0.3))


def only(name: str, x: Tensor, amount: float) -> Tensor:
    """One primitive at one end, or in the middle, of its range; the second one does nothing."""
    count = len(x)
    kind = torch.full((count,), PRIMITIVES.index(name))
    level = torch.full((count,), amount)
    pairs = (
        torch.stack([kind, torch.full_like(kind, -1)], dim=1),
        torch.stack([level, level], dim=1),
    )
    still = torch.zeros(count, dtype=torch.bool)
    x = patch_augment._moved(x, *pairs, still, torch.zeros(count, 2, 4, 4), torch.zeros(count))
    x = patch_augment._repainted(x, kind, level, rgb=True)
    return patch_augment._cut_out(
        x, kind == PRIMITIVES.index("cutout"), 0.1 * (1 + level), torch.zeros(count, 2)
    )


def test_there_are_fifteen_primitives_and_no_sample_pairing() -> None:
    assert len(set(PRIMITIVES)) == 15
    assert not any("pairing" in name for name in PRIMITIVES)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_changes_something(name: str) -> None:
    x = 0.2 + 0.7 * noise(2, 3, 16, 16)
    assert not torch.allclose(only(name, x, 0.6), x, atol=1e-3)


NEUTRAL = (
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "contrast",
    "color",
    "brightness",
    "sharpness",
)


@pytest.mark.parametrize("name", NEUTRAL)
def test_the_middle_of_the_range_is_the_patch_itself(name: str) -> None:
    x = noise(2, 3, 16, 16)
    assert torch.allclose(only(name, x, 0.0), x, atol=1e-5)


def test_primitives_by_hand() -> None:
    x = noise(1, 3, 8, 8)
    assert torch.allclose(only("invert", x, 0.3), 1 - x, atol=1e-5)
    assert torch.allclose(only("solarize", x, 0.0), torch.where(x > 0.5, 1 - x, x), atol=1e-5)
    assert torch.allclose(only("brightness", x, -1.0), 0.1 * x, atol=1e-5)
    gray = x.mean(dim=1, keepdim=True)
    assert torch.allclose(only("color", x, -1.0), gray + 0.1 * (x - gray), atol=1e-5)
    # A shift of 0.45 of the side: 20 px hold a ramp of 0..19, moved by 9 px, repeated at the
    # border.
    ramp = torch.arange(20.0).view(1, 1, 1, 20).expand(1, 3, 20, 20) / 20
    moved = (only("translate-x", ramp, 1.0) * 20).round()[0, 0, 0].tolist()
    assert moved == [*range(9, 20), *[19] * 9]
    turned = only("rotate", ramp, 1.0)
    assert not torch.allclose(turned[0, 0, 0], turned[0, 0, 10])  # rows are no longer alike


def test_posterize_keeps_four_to_eight_bits() -> None:
    """Against the bit mask of 8-bit images; every number of bits is drawn, as often as the rest."""
    values = torch.arange(256, dtype=torch.uint8)
    x = (values.float() / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for bits in range(9):
        kept = values & (0xFF << (8 - bits) & 0xFF)
        found = posterize(x, torch.tensor(float(bits)))[0, 0].flatten() * 255
        assert torch.allclose(found, kept.float(), atol=1e-3)
    amounts = torch.linspace(-1, 1, 102)[1:-1]
    levels = [len(only("posterize", x, float(amount)).unique()) for amount in amounts]
    assert [levels.count(2**bits) for bits in range(4, 9)] == [20] * 5
    assert len(only("posterize", x, 1.0).unique()) == 256


def test_cutout_paints_at_most_a_fifth_of_the_side() -> None:
    x = torch.ones(1, 3, 20, 20)
    painted = (only("cutout", x, 1.0) == 0.5).sum()
    assert int(painted) == 3 * 4 * 4


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_flat_patches_stay_finite(seed: int) -> None:
    for value in (0.0, 0.5, 1.0):
        for level in LEVELS:
            assert torch.isfinite(
                augment(torch.full((2, 3, 3, 8, 8), value), level, rng(2, seed))
            ).all()
