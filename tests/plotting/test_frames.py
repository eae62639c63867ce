from __future__ import annotations

import torch

from ssltool.plotting import frames


def test_to_uint8_stretches_each_image() -> None:
    out = frames.to_uint8(
        torch.tensor([[-1.0, 0.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]).view(2, 1, 2, 2)
    )
    assert out.flatten().tolist() == [0, 64, 128, 255, 128, 128, 128, 128]


def test_errors_are_darker_the_larger_they_are() -> None:
    colors = frames.error_colors(64).double() @ torch.tensor([0.2126, 0.7152, 0.0722]).double()
    assert float(colors[0]) == 255
    assert (colors.diff() < 0).all()
