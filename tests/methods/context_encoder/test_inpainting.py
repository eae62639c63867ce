"""Baselines and errors of inpainting, by hand and against slow references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.methods.context_encoder import inpainting as inpaint
from ssltool.ops.color import normalize_contrast


def test_errors_in_the_papers_units() -> None:
    """A constant error of 0.1 is 10 %, 1 % and 20 dB; 0 on half the pixels and 0.2 on the rest 10
    %, 2 %, 16.99 dB.
    """
    truth, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[..., 1:3, 1:3] = True
    filled = torch.full_like(truth, 0.1)
    filled[1] = 0
    filled[1, :, :, 1] = 0.2
    filled[0, :, 0] = 9.0  # visible: does not count
    l1, l2, psnr = inpaint.errors(filled, truth, mask)
    assert l1.tolist() == pytest.approx([0.1, 0.1])
    assert l2.tolist() == pytest.approx([0.01, 0.02])
    assert psnr.tolist() == pytest.approx([20.0, 16.9897], abs=1e-3)
    perfect = inpaint.errors(truth, truth, mask)
    assert perfect[2].tolist() == [100.0, 100.0]


def test_a_ramp_is_interpolated_exactly() -> None:
    ramp = torch.arange(9.0).view(1, 1, 1, 9).expand(1, 3, 9, 9) / 8
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[..., 3:6, :] = True
    mask[..., 0] = mask[..., -1] = False
    mask[..., 3:6, 3:6] = True
    rows_hidden = torch.zeros_like(mask)
    rows_hidden[..., 2:7] = (
        True  # only left and right neighbors are visible: plain linear interpolation
    )
    assert torch.allclose(inpaint.interpolate(ramp, rows_hidden), ramp, atol=1e-5)


def _slow(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out = images.clone()
    count, channels, height, width = images.shape
    for b in range(count):
        for y in range(height):
            for x in range(width):
                if not mask[b, 0, y, x]:
                    continue
                total, weights = torch.zeros(channels), 0.0
                for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                    distance = 1
                    while 0 <= y + dy * distance < height and 0 <= x + dx * distance < width:
                        place = (y + dy * distance, x + dx * distance)
                        if not mask[b, 0, place[0], place[1]]:
                            total += images[b, :, place[0], place[1]] / distance
                            weights += 1 / distance
                            break
                        distance += 1
                visible = images[b][:, ~mask[b, 0]]
                out[b, :, y, x] = (
                    total / weights if weights else visible.sum(1) / max(1, visible.shape[1])
                )
    return out


@settings(max_examples=15)
@given(seed=st.integers(0, 999), hidden=st.floats(0.1, 0.95))
def test_interpolation_equals_a_slow_reference(seed: int, hidden: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 7, 7, generator=generator)
    mask = torch.rand(2, 1, 7, 7, generator=generator) < hidden
    assert torch.allclose(inpaint.interpolate(images, mask), _slow(images, mask), atol=1e-5)


def test_depth_counts_pixels_from_the_border_of_the_hole() -> None:
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[..., 2:7, 2:7] = True
    depth = inpaint.depth(mask, 5)[0, 0]
    assert depth[4].tolist() == [0, 0, 1, 2, 3, 2, 1, 0, 0]
    assert int(inpaint.depth(mask, 2).max()) == 2


@settings(max_examples=20)
@given(
    seed=st.integers(0, 999),
    hidden=st.floats(0.1, 0.8),
    channels=st.sampled_from([1, 3]),
    standardized=st.booleans(),
)
def test_the_nearest_neighbor_equals_a_slow_reference(
    seed: int, hidden: float, channels: int, standardized: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randint(0, 256, (9, 3, 6, 6), generator=generator, dtype=torch.uint8)
    images = torch.rand(4, channels, 6, 6, generator=generator)
    mask = torch.rand(4, 1, 6, 6, generator=generator) < hidden
    excluded = torch.rand(4, 9, generator=generator) < 0.3
    excluded[0] = True
    if standardized:
        images = normalize_contrast(images, visible=~mask)
    filled = inpaint.nearest_neighbor(images, mask, gallery, excluded, standardized=standardized)
    whole = gallery.float() / 255
    whole = whole.mean(dim=1, keepdim=True) if channels == 1 else whole
    assert torch.equal(filled[0], images[0])  # no image is left
    for b in range(1, 4):
        candidates = whole
        if standardized:
            candidates = normalize_contrast(whole, visible=~mask[b : b + 1].expand(9, -1, -1, -1))
        distances = [
            float(((images[b] - other).square() * ~mask[b]).sum()) if not excluded[b, m] else 1e9
            for m, other in enumerate(candidates)
        ]
        nearest = min(range(9), key=distances.__getitem__)
        second = sorted(distances)[1]
        # Clipping to 0..1 may reverse near ties of standardized images.
        if not standardized or second > 1.2 * distances[nearest] + 1e-3:
            expected = torch.where(mask[b], candidates[nearest], images[b])
            assert torch.allclose(filled[b], expected, atol=1e-5)


def test_the_hole_is_not_looked_at() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randint(0, 256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:6, 2:6] = True
    image = torch.where(mask, 0.5, gallery[3:4].float() / 255)
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    filled = inpaint.nearest_neighbor(image, mask, gallery, nothing)
    assert torch.allclose(filled, gallery[3:4].float() / 255)
    own = torch.arange(5)[None] == 3
    other = inpaint.nearest_neighbor(image, mask, gallery, own)
    assert not torch.allclose(other, filled)
