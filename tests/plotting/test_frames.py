from __future__ import annotations

import torch

from ssltool.plotting import frames


def test_border_paints_the_outermost_pixels_only() -> None:
    out = frames.border(
        torch.full((1, 2, 3, 6, 6), 9, dtype=torch.uint8),
        torch.stack([frames.GREEN, frames.RED])[None],
        2,
    )
    assert torch.equal(out[0, 0, :, 0, 0], frames.GREEN)
    assert torch.equal(out[0, 1, :, 5, 3], frames.RED)
    assert (out[:, :, :, 2:4, 2:4] == 9).all()
    assert (out[0, 0, 0] == 9).sum() == 4


def test_outline_marks_squares_at_their_place() -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    out = frames.outline(images, torch.tensor([[1]]), torch.tensor([[2]]), 4, frames.YELLOW)
    drawn = (out[0, 0] == frames.YELLOW[0]).nonzero().tolist()
    expected = [[y, x] for y in range(1, 5) for x in range(2, 6) if y in (1, 4) or x in (2, 5)]
    assert drawn == expected
    assert (images == 0).all()


def test_to_uint8_stretches_each_image() -> None:
    out = frames.to_uint8(
        torch.tensor([[-1.0, 0.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]).view(2, 1, 2, 2)
    )
    assert out.flatten().tolist() == [0, 64, 128, 255, 128, 128, 128, 128]
