"""Random crops of whole images that were stretched to squares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from ssltool.ops.crops import plain_boxes, random_boxes
from ssltool.ops.per_image_rng import PerImageRNG


def rng(count: int, seed: int = 0) -> PerImageRNG:
    return PerImageRNG(torch.arange(count), torch.Generator().manual_seed(seed))


def in_the_image(boxes: Tensor, aspects: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Share of the image's area, and width / height in the image, of boxes of the square."""
    height, width = boxes[:, 2].double(), boxes[:, 3].double()
    return height * width / side**2, width / height * aspects


@settings(max_examples=30)
@given(st.floats(0.4, 2.5), st.floats(0.05, 0.9), st.integers(0, 99))
def test_area_and_ratio_are_those_of_the_image(aspect: float, least: float, seed: int) -> None:
    side, aspects = 2000, torch.full((200,), aspect)
    boxes = random_boxes(rng(200, seed), side, (least, 1.0), aspects=aspects)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= side).all()
    area, ratio = in_the_image(boxes, aspects, side)
    assert (ratio > 0.74).all()
    assert (ratio < 1.35).all()
    # If no box fits in ten tries the largest of a permitted ratio is taken.
    largest = min(1.0, aspect * 4 / 3, 4 / 3 / aspect)
    assert (area > min(least, largest) - 0.01).all()


@pytest.mark.parametrize("aspect", [0.6, 1.0, 1.5])
def test_distribution_is_that_of_torchvision(aspect: float) -> None:
    side, count = 600, 4000
    height, width = side, round(side * aspect)
    torch.manual_seed(0)
    crop, blank = v2.RandomResizedCrop(10, scale=(0.2, 1.0)), torch.zeros(1, height, width)
    drawn = [crop.make_params([blank]) for _ in range(count)]
    reference = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    aspects = torch.full((count,), width / height)
    boxes = random_boxes(rng(count), side, (0.2, 1.0), aspects=aspects).double()
    boxes[:, 1::2] *= width / side  # to pixels of the image
    for ours, theirs in zip(boxes.T, reference.double().T, strict=True):
        assert ours.mean() == pytest.approx(float(theirs.mean()), abs=0.03 * side)
        assert ours.std() == pytest.approx(float(theirs.std()), rel=0.1, abs=2)


@settings(max_examples=30)
@given(st.floats(0.4, 2.5), st.floats(0.2, 1.0))
def test_plain_boxes_are_squares_of_one_size_anywhere(aspect: float, share: float) -> None:
    side, count = 1000, 2000
    aspects = torch.full((count,), aspect)
    boxes = plain_boxes(rng(count), side, share, aspects)
    area, ratio = in_the_image(boxes, aspects, side)
    assert (ratio - 1).abs().max() < 0.02
    assert (area - share**2 * min(aspect, 1 / aspect)).abs().max() < 0.01
    for axis in (0, 1):
        room = side - int(boxes[0, 2 + axis])
        positions = boxes[:, axis].double()
        assert positions.min() <= 0.01 * room + 1
        assert positions.max() >= 0.99 * room - 1
        assert positions.mean() == pytest.approx(room / 2, abs=0.03 * side)
