"""Which sizes of images an encoder takes, and how large its maps of them are."""

from __future__ import annotations

import math

import torch

from ssltool.encoders.encoder import Encoder, run_on_meta
from ssltool.errors import UsageError

_LARGEST_SEARCHED = 512


@torch.no_grad()
def deepest_stage(encoder: Encoder, size: int, least: int) -> str | None:
    """The last stage whose map of a ``size`` by ``size`` pixels image still has ``least`` by
    ``least`` places.

    None if even the first stage's map is smaller.
    """
    modes = {part: part.training for part in encoder.modules()}
    walk = encoder.eval().walk(torch.zeros(1, encoder.in_channels, size, size))
    deepest = None
    try:
        # The walk goes on stage by stage, so that none is asked for a map that it cannot have.
        for name, found in walk:
            if min(found.shape[2:]) < least:
                break
            deepest = name
    except RuntimeError:  # torch's way to say that a map has become too small for the next part
        pass
    finally:
        for part, training in modes.items():
            part.training = training
    return deepest


def check_input(encoder: Encoder, size: int) -> None:
    """Make sure that the encoder takes images of ``size`` by ``size`` pixels, before any work is
    spent on them.

    Two zero images are sent through in evaluation mode, on the meta device: shapes are worked out
    and checked as in a real forward pass, at no cost in arithmetic.

    Raises:
        UsageError: It does not; the message names the smallest size that works.
    """
    if encoder.image_size is not None and encoder.image_size != size:
        raise UsageError(
            f"{encoder.name} was built for {encoder.image_size} px images and cannot take {size} "
            "px; "
            f"type --image-size {encoder.image_size}"
        )
    if _accepts(encoder, size):
        return
    low, step = (
        size,
        1,
    )  # usually little is missing: steps double until a size is enough, then halve
    while low + step < _LARGEST_SEARCHED and not _accepts(encoder, low + step):
        low, step = low + step, 2 * step
    high = min(low + step, _LARGEST_SEARCHED)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _accepts(encoder, middle) else (middle, high)
    raise UsageError(
        f"{encoder.name} cannot take {size} px images (its smallest is {high} px); "
        f"type --backbone resnet10_w32 or --image-size {math.ceil(high / 32) * 32}"
    )


@torch.no_grad()
def map_shape(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels C and side n of the last map ``[B, C, n, n]`` of ``size`` px images, found by
    sending two through.
    """
    parameter = next(encoder.parameters())
    images = torch.zeros(2, encoder.in_channels, size, size, device=parameter.device)
    modes = {part: part.training for part in encoder.modules()}
    channels, side = encoder.eval().map(images).shape[1:3]
    for part, training in modes.items():
        part.training = training
    return channels, side


def _accepts(encoder: Encoder, size: int) -> bool:
    try:
        run_on_meta(encoder, torch.zeros(2, encoder.in_channels, size, size, device="meta"))
    except RuntimeError:
        return False
    return True
