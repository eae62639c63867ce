"""Regions of images of any size: what is hidden stays hidden, what is visible stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssltool.methods.context_encoder.masks import central_hole
from ssltool.methods.context_encoder.options import ContextEncoderOptions
from ssltool.methods.context_encoder.regions import (
    Box,
    bounding_box,
    central_box,
    hole_fraction,
    paste,
    read_context,
    window_around,
)
from ssltool.methods.context_encoder.task import ContextEncoder
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.ops.color import normalize_contrast, restore_contrast


@st.composite
def regions(draw: Any) -> tuple[Tensor, Tensor, Box]:
    """An image, a mask that leaves some of it, and the mask's box."""
    height, width = draw(st.integers(8, 70)), draw(st.integers(8, 70))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = Box(left, top, draw(st.integers(1, width - left)), draw(st.integers(1, height - top)))
    pixels = torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(left)
    )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[box.slices()] = True
    return pixels, mask, box


@settings(deadline=None, max_examples=40)
@given(regions(), st.booleans(), st.integers(8, 48))
def test_nothing_hidden_is_read_and_nothing_visible_changes(
    region: tuple[Tensor, Tensor, Box], central: bool, side: int
) -> None:
    pixels, mask, box = region
    assert bounding_box(mask) == box
    fraction = hole_fraction(central_hole(side, side // 16)) if central else None
    window = window_around(box, mask.shape[1], mask.shape[0], fraction)
    context = read_context(pixels, mask, window, side)
    other = torch.where(mask, 255 - pixels, pixels)
    assert torch.equal(read_context(other, mask, window, side).image, context.image)
    assert 0 <= context.image.min() <= context.image.max() <= 1
    painted = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    result = paste(pixels, mask, window, painted)
    assert torch.equal(result[:, ~mask], pixels[:, ~mask])
    assert torch.equal(paste(other, mask, window, painted)[:, mask], result[:, mask])


@settings(deadline=None, max_examples=100)
@given(regions(), st.booleans())
def test_windows_hold_their_region(region: tuple[Tensor, Tensor, Box], central: bool) -> None:
    _, mask, box = region
    height, width = mask.shape
    fraction = hole_fraction(central_hole(64, 4))
    window = window_around(box, width, height, fraction if central else None)
    starts, ends = (box.left - window.left, box.top - window.top), (box.width, box.height)
    sizes = (window.width, window.height)
    for start, own, size, whole in zip(starts, ends, sizes, (width, height), strict=True):
        if central:  # in the middle 24 of 64 px
            assert start >= size * 20 / 64 - 1
            assert start + own <= size * 44 / 64 + 1
        else:
            assert start >= 0
            assert start + own <= size <= whole
    if not central:
        assert window.left >= 0
        assert window.top >= 0
        assert window.left + window.width <= width
        assert window.top + window.height <= height


def test_the_papers_center_is_read_from_the_whole_image() -> None:
    box = central_box(100, 60)
    assert box == Box(25, 15, 50, 30)
    assert window_around(box, 100, 60, None) == Box(0, 0, 100, 60)
    small = window_around(Box(80, 50, 10, 10), 100, 60, None)
    assert small == Box(75, 40, 20, 20)  # moved up, to stay inside


def test_a_constant_image_is_read_as_it_is() -> None:
    pixels = torch.full((3, 50, 40), 153, dtype=torch.uint8)
    mask = torch.zeros(50, 40, dtype=torch.bool)
    mask[10:21, 7:30] = True
    context = read_context(pixels, mask, Box(0, 0, 40, 50), 16)
    visible = ~context.mask[0]
    assert visible.any()
    assert torch.allclose(context.image[:, visible], torch.tensor(0.6), atol=1e-5)
    # Every pixel of the square that has a hidden one in it is painted.
    assert context.mask[0, 4:6, 4:10].all()


def made(channels: int = 3, **options: Any) -> ContextEncoder:
    data = DataInfo(count=8, image_size=32, batch_size=4)
    task = ContextEncoderOptions(**options).with_defaults(data)
    inputs = find_method("context-encoder").inputs(task, data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = inputs.build_encoder("resnet10_w32", stem="small", in_channels=channels)
        return ContextEncoder(task, encoder, data).eval()


@pytest.mark.parametrize(
    ("channels", "options"),
    [(3, {}), (3, {"mask": "center"}), (1, {"standardize": True, "decoder_width": 32})],
    ids=["region", "center", "gray, standardized"],
)
@torch.no_grad()
def test_painting_keeps_what_is_visible_and_ignores_what_is_hidden(
    channels: int, options: dict[str, Any]
) -> None:
    method = made(channels, **options)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mask = central_hole(32, 4).expand(2, -1, -1, -1)
    painted = method.paint(images, mask)
    assert painted.shape == images.shape
    kept = images if channels == 3 else images.mean(dim=1, keepdim=True).expand_as(images)
    hidden = method.hole if method.options.mask == "center" else mask
    visible = (~hidden).expand_as(images)
    clipped = (painted - kept).abs()[visible] > 1e-4  # beyond four deviations
    assert clipped.float().mean() < 0.05
    other = torch.where(mask, 1 - images, images)
    assert torch.allclose(method.paint(other, mask), painted, atol=1e-5)


def test_restored_contrast_is_that_of_before() -> None:
    images = 0.4 + 0.1 * torch.rand(2, 3, 16, 16)
    visible = torch.rand(2, 1, 16, 16) > 0.3
    normalized = normalize_contrast(images, visible)
    assert torch.allclose(restore_contrast(normalized, images, visible), images, atol=1e-4)
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(restore_contrast(torch.full_like(flat, 0.5), flat), flat, atol=1e-6)
