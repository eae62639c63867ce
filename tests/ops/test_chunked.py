"""Work in pieces: the same as on the whole batch, whatever the piece, and for every method."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.ops.chunked import chunked
from ssltool.ops.per_image_rng import PerImageRNG


class View(NamedTuple):
    pixels: Tensor
    number: Tensor


def work(images: Tensor, rng: PerImageRNG) -> View:
    return View(images.float().contiguous(memory_format=torch.channels_last), rng.uniform(2))


@pytest.mark.parametrize("piece", [1, 3, 5, 7, 100])
def test_pieces_make_up_the_whole(piece: int) -> None:
    images, index = torch.arange(7 * 3 * 4).view(7, 3, 2, 2), torch.arange(7) * 5

    def streams() -> PerImageRNG:
        rng = PerImageRNG(index, torch.Generator().manual_seed(3))
        rng.bits(3)  # pieces go on where the streams are
        return rng

    whole, parts = work(images, streams()), chunked(piece, work, images, streams())
    assert isinstance(parts, View)
    assert torch.equal(parts.pixels, whole.pixels)
    assert parts.pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(parts.number, whole.number)
    assert torch.equal(chunked(piece, lambda given: given * 2, images), images * 2)


@pytest.mark.parametrize(
    "name", ["jigsaw", "context-prediction", "context-encoder", "colorization", "npid", "cpc"]
)
def test_a_methods_view_does_not_depend_on_the_batch(name: str) -> None:
    """Not on the pieces in which it is drawn either: two images are one piece, or a part of another
    one.
    """
    cls, info = find_method(name), DataInfo(100, 64)
    options = cls.Options().with_defaults(info)
    inputs = cls.inputs(options, info)
    encoder = inputs.build_encoder("resnet10_w32", stem="small", in_channels=inputs.channels)
    method = cls(options, encoder, info).train()
    images = torch.randint(
        0, 256, (19, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    index = torch.arange(19)
    whole = method.view(images, index, torch.Generator().manual_seed(1))
    for begin in range(0, 19, 2):
        some = slice(begin, begin + 2)
        part = method.view(images[some], index[some], torch.Generator().manual_seed(1))
        for got, expected in zip(part, whole, strict=True):
            assert torch.allclose(got.float(), expected[some].float(), atol=1e-4)
