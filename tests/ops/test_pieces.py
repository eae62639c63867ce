"""Views in pieces: the same as of the whole batch, whatever the piece, and for every method."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ssltool.methods.base import DataInfo
from ssltool.methods.find import find_method
from ssltool.ops.pieces import piecewise
from ssltool.ops.random import Draws


class View(NamedTuple):
    pixels: Tensor
    number: Tensor


def view(self: int, images: Tensor, index: Tensor, generator: torch.Generator) -> View:
    pixels = (images + self).float().contiguous(memory_format=torch.channels_last)
    return View(pixels, Draws(index, generator).uniform(2))


@pytest.mark.parametrize("piece", [1, 3, 5, 7, 100])
def test_pieces_make_up_the_whole(piece: int) -> None:
    images, index = torch.arange(7 * 3 * 4).view(7, 3, 2, 2), torch.arange(7) * 5
    whole = view(1, images, index, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    parts = piecewise(piece)(view)(1, images, index, generator)
    assert isinstance(parts, View)
    assert torch.equal(parts.pixels, whole.pixels)
    assert parts.pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(parts.number, whole.number)
    again = torch.Generator().manual_seed(3)
    view(1, images, index, again)
    assert torch.equal(generator.get_state(), again.get_state())  # what is drawn later is the same, too


@pytest.mark.parametrize("name", ["jigsaw", "context-prediction", "context-encoder", "colorization", "npid", "cpc"])
def test_a_methods_view_does_not_depend_on_the_piece(name: str) -> None:
    cls, info = find_method(name), DataInfo(100, 64)
    options = cls.Options().resolved(info)
    channels = 1 if cls.color_space == "lightness" else 3
    encoder = cls.build_encoder(options, info, "resnet10_w32", stem="small", in_channels=channels)
    method = cls(options, encoder, info).train()
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index = torch.arange(9)
    got = method.view(images, index, torch.Generator().manual_seed(1))
    whole = cls.view.__wrapped__(method, images, index, torch.Generator().manual_seed(1))  # type: ignore[attr-defined]
    for part, expected in zip(got, whole, strict=True):
        assert torch.allclose(part.float(), expected.float(), atol=1e-4)
