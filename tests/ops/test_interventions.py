from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops import interventions, patches


def random_patches(side: int = 12) -> Tensor:
    return 255 * torch.rand(2, 3, 3, side, side, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize(("side", "width"), [(6, 1), (12, 1), (32, 2), (64, 4)])
def test_the_border_is_that_of_the_donor(side: int, width: int) -> None:
    shown, donors = random_patches(side), -1 - random_patches(side)
    found = interventions.replace_border(shown, donors)
    for y in range(side):
        for x in range(side):
            inside = width <= y < side - width and width <= x < side - width
            expected = shown if inside else donors
            assert torch.equal(found[..., y, x], expected[..., y, x])
    assert torch.equal(interventions.replace_border(shown, shown), shown)


def test_channels_are_translated_each_by_its_own_shift() -> None:
    shown = random_patches(8)
    shift = torch.randint(-2, 3, (2, 3, 3, 2), generator=torch.Generator().manual_seed(1))
    found = interventions.shift_channels(shown, shift)
    for b, n, c in torch.cartesian_prod(*(torch.arange(k) for k in (2, 3, 3))).tolist():
        dy, dx = shift[b, n, c].tolist()
        for y in range(8):
            for x in range(8):
                source = shown[b, n, c, min(max(y - dy, 0), 7), min(max(x - dx, 0), 7)]
                assert found[b, n, c, y, x] == source
    assert torch.equal(interventions.shift_channels(shown, torch.zeros_like(shift)), shown)


def test_standardized_patches_do_not_change_with_the_light() -> None:
    shown = random_patches()
    gain, level = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(2)).unbind()
    relit = interventions.relight(shown, gain, level)
    assert relit.min() >= 0
    assert relit.max() <= 255
    assert (relit - shown).abs().max() > 10
    before, after = (patches.standardize(part, level=1.0) for part in (shown, relit))
    assert torch.allclose(before, after, atol=1e-4)


def test_blur_is_the_product_of_two_gaussians() -> None:
    dot = torch.zeros(1, 1, 15, 15)
    dot[..., 7, 7] = 1
    x = torch.arange(-3.0, 4.0)
    line = torch.exp(-(x**2) / 2) / torch.exp(-(x**2) / 2).sum()
    assert torch.allclose(
        interventions.blur(dot)[0, 0, 4:11, 4:11], line[:, None] * line, atol=1e-6
    )
    flat = torch.full((2, 3, 9, 9), 37.0)
    assert torch.allclose(interventions.blur(flat), flat, atol=1e-4)
    shown = random_patches()
    assert torch.equal(interventions.soften(shown, torch.zeros(2, 3)), shown)


def test_fringes_vanish_and_lightness_stays() -> None:
    gray = 255 * torch.rand(4, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    fringed = torch.cat([gray.roll(1, 3), gray, gray.roll(-1, 3)], dim=1)
    found = interventions.blur_chroma(fringed)
    assert torch.allclose(found.mean(dim=1), fringed.mean(dim=1), atol=1e-3)
    chroma = [(part - part.mean(dim=1, keepdim=True)).std() for part in (found, fringed)]
    assert chroma[0] < 0.2 * chroma[1]
    alike = gray.expand(-1, 3, -1, -1)
    assert torch.allclose(interventions.blur_chroma(alike), alike, atol=1e-3)


def test_jpeg_changes_little() -> None:
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = (F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    found = interventions.jpeg(images)
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    error = (found.float() - images.float()).abs()
    assert 0 < error.mean() < 4
