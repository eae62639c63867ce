from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.ops import patches


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**31))
def test_cut_equals_slicing(batch: int, count: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, 12, 15), generator=generator, dtype=torch.uint8)
    top = torch.randint(0, 13 - size, (batch, count, 3), generator=generator)
    left = torch.randint(0, 16 - size, (batch, count, 3), generator=generator)
    got = patches.cut(images, top, left, size)
    assert got.shape == (batch, count, 3, size, size)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patches.cut(last, top, left, size), got)
    assert torch.equal(
        patches.cut(last, top[..., 0], left[..., 0], size),
        patches.cut(images, top[..., 0], left[..., 0], size),
    )
    for b in range(batch):
        for p in range(count):
            for c in range(3):
                y, x = int(top[b, p, c]), int(left[b, p, c])
                assert torch.equal(got[b, p, c], images[b, c, y : y + size, x : x + size])


def test_cut_with_one_place_for_all_channels() -> None:
    images = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    got = patches.cut(images, torch.tensor([[1], [2]]), torch.tensor([[0], [3]]), 2)
    assert torch.equal(got[0, 0], images[0, :, 1:3, 0:2])
    assert torch.equal(got[1, 0], images[1, :, 2:4, 3:5])


def test_assemble_is_the_inverse_of_cutting_a_grid() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(3) * 3, torch.arange(3) * 3, indexing="ij")
    cells = patches.cut(images, y.flatten().expand(2, 9), x.flatten().expand(2, 9), 3)
    assert torch.equal(patches.assemble(cells, 3), images)
    spaced = patches.assemble(cells, 3, gap=1, fill=7)
    assert spaced.shape == (2, 3, 13, 13)
    assert torch.equal(spaced[:, :, 1:4, 1:4], cells[:, 0])
    assert (spaced[:, :, 0] == 7).all()


def test_standardize_uses_the_population_deviation() -> None:
    patch = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 1, 2, 2)
    expected = torch.tensor([-1.3416, -0.4472, 0.4472, 1.3416])
    assert torch.allclose(patches.standardize(patch).flatten(), expected, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1 / 255, 0.1, 77 / 255, 1.0])
def test_a_constant_patch_becomes_exactly_zero(value: float) -> None:
    assert (patches.standardize(torch.full((2, 3, 9, 9), value)) == 0).all()


@pytest.mark.parametrize("jointly", [False, True])
def test_standardize_channels_last(jointly: bool) -> None:
    """The same numbers, in the layout given."""
    given = torch.rand(4, 5, 3, 8, 7) * 255
    given[0, 0, 1] = 77.0  # a channel without contrast
    last = given.movedim(2, -1).contiguous().movedim(-1, 2)
    found = patches.standardize(last, level=1.0, jointly=jointly)
    assert torch.allclose(found, patches.standardize(given, level=1.0, jointly=jointly), atol=1e-5)
    assert found.stride() == last.stride()
    assert (found[0, 0, 1] == 0).all() or jointly


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("jointly", [False, True])
def test_standardize_bytes_as_floats(channels: int, jointly: bool) -> None:
    """Of bytes the mean of squares is exact: a bright patch with a single darker pixel is the
    hardest one.
    """
    given = torch.randint(0, 256, (4, 5, channels, 75, 75), dtype=torch.uint8)
    given[0, 0] = 255
    given[0, 1], given[0, 1, :, 40, 40] = 254, 253
    expected = patches.standardize(given.double(), level=1.0, jointly=jointly)
    for form in (given, given.movedim(2, -1).contiguous().movedim(-1, 2)):
        found = patches.standardize(form, level=1.0, jointly=jointly)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), expected, atol=1e-4)
        assert (found[0, 0] == 0).all()


def test_standardize_each_channel_alone() -> None:
    out = patches.standardize(torch.rand(4, 5, 3, 8, 8))
    assert torch.allclose(out.mean(dim=(-2, -1)), torch.zeros(4, 5, 3), atol=1e-5)
    assert torch.allclose(out.var(dim=(-2, -1), correction=0), torch.ones(4, 5, 3), atol=1e-4)


@pytest.mark.parametrize("size", [4, 8, 20])
def test_resize_keeps_constants_and_shape(size: int) -> None:
    out = patches.resize(torch.full((2, 9, 3, 8, 8), 0.25), size)
    assert out.shape == (2, 9, 3, size, size)
    assert torch.allclose(out, torch.tensor(0.25))


@pytest.mark.parametrize("size", [4, 8, 20])
def test_bytes_are_resized_to_rounded_bytes(size: int) -> None:
    levels = torch.randint(256, (2, 9, 3, 8, 8), dtype=torch.uint8)
    out = patches.resize(levels, size)
    assert out.dtype == torch.uint8
    assert (
        out - patches.resize(levels.to(torch.float32), size)
    ).abs().max() <= 1.001  # rounded after each axis


def test_joint_standardisation_keeps_the_colors_of_a_patch() -> None:
    stack = (
        torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 2, 4])[:, None, None]
    )
    out = patches.standardize(stack, level=0.0, jointly=True)
    assert out.mean(dim=(-1, -2)).abs().max() < 1e-5
    assert torch.allclose(out.square().mean(dim=(-1, -2, -3)), torch.ones(2, 4), atol=1e-4)
    spread = out.std(dim=(-1, -2))
    assert (spread[..., 2] > 2 * spread[..., 0]).all()
    assert (
        patches.standardize(torch.full((1, 1, 3, 4, 4), 7.0), level=1.0, jointly=True) == 0
    ).all()
