"""Baselines and errors of inpainting, by hand and against slow references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.methods.context_encoder import inpainting as inpaint


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


@settings(max_examples=15, deadline=None)
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
