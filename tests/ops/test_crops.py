from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssltool.ops.crops import _resized_together, random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG


def rng(count: int, seed: int = 0) -> PerImageRNG:
    return PerImageRNG(torch.arange(count), torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(side=st.integers(8, 80), low=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_boxes_lie_inside_and_have_the_areas_and_ratios_asked(
    side: int, low: float, seed: int
) -> None:
    top, left, height, width = random_boxes(rng(64, seed), side, (low, 1.0)).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= side).all()
    assert (left + width <= side).all()
    exact_side = (low * side**2) ** 0.5
    assert (height * width >= (exact_side - 2) ** 2 * 0.8).all()
    assert (width / height <= 4 / 3 * (1 + 4 / side)).all()


def test_boxes_cover_all_places_and_sizes() -> None:
    top, left, height, width = random_boxes(rng(4000), 32, (0.2, 1.0)).unbind(1)
    share = (height * width).double() / 32**2
    assert share.min() < 0.25
    assert share.max() > 0.9
    # Areas are uniform, but the largest boxes of extreme ratio do not fit and are drawn again.
    assert share.mean() == pytest.approx(0.57, abs=0.03)
    assert int(top[height < 20].max()) >= 12
    assert int(top.min()) == int(left.min()) == 0


def test_a_box_that_never_fits_gives_the_whole_image() -> None:
    assert random_boxes(rng(3), 10, (1.0, 1.0), (4.0, 5.0)).tolist() == [[0, 0, 10, 10]] * 3


@pytest.mark.parametrize("resize", [resized_crop, _resized_together])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.uint8, 1)])
@pytest.mark.parametrize(
    ("side", "form"), [(20, torch.contiguous_format), (90, torch.channels_last)]
)
def test_agrees_with_cutting_and_resizing_each_image(
    resize: Callable[..., torch.Tensor],
    dtype: torch.dtype,
    tolerance: float,
    side: int,
    form: torch.memory_format,
) -> None:
    """Boxes of 8 to 20 px are enlarged; of those of 30 to 90 px most shrink, some along one axis
    alone.
    """
    images = torch.randint(0, 256, (6, 3, side, side), generator=torch.Generator().manual_seed(1))
    images = images.to(dtype, memory_format=form)
    boxes = torch.cat(
        [random_boxes(rng(5), side, (0.1, 1.0)), torch.tensor([[1, 2, side // 2, 15]])]
    )
    mirrored = torch.tensor([True, False] * 3)
    got = resize(images, boxes, 20, mirrored)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=form) or dtype == torch.float32
    for image, box, flip, result in zip(images, boxes.tolist(), mirrored, got, strict=True):
        top, left, height, width = box
        part = image[None, :, top : top + height, left : left + width].float()
        expected = F.interpolate(
            part, (20, 20), mode="bilinear", align_corners=False, antialias=True
        )[0]
        assert (result - (expected.flip(-1) if flip else expected)).abs().max() <= tolerance


def test_the_whole_image_at_its_own_size_is_unchanged() -> None:
    images = torch.rand(2, 3, 9, 9)
    whole = torch.tensor([[0, 0, 9, 9]] * 2)
    assert torch.allclose(resized_crop(images, whole, 9), images, atol=1e-5)
