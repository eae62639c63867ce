"""Convolutions that continue a map at its border in place of zero padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def replicate_padding(network: nn.Module) -> Iterator[None]:
    """Pad the maps of all convolutions with their outermost values, within this context.

    Zero padding puts a frame of constant values around each map, so that activations at the border
    differ from all others whatever the image shows, and at more locations with each layer: a glow
    in figures of where features differ. Weights are unchanged, and so is every location that no
    padding reaches.
    """
    convolutions = [
        m for m in network.modules() if isinstance(m, nn.Conv2d) and m.padding_mode == "zeros"
    ]
    for convolution in convolutions:
        convolution.padding_mode = "replicate"
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution.padding_mode = "zeros"
