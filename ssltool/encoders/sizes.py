"""Image sizes that an encoder accepts, and the sizes of its feature maps."""

from __future__ import annotations

import math

import torch

from ssltool.encoders.dry_run import eval_mode, run_on_meta
from ssltool.encoders.encoder import Encoder
from ssltool.errors import UsageError

_LARGEST_SEARCHED = 512


@torch.no_grad()
def deepest_stage(encoder: Encoder, size: int, least: int) -> str | None:
    """The last stage whose map is at least ``least`` by ``least``, for ``size`` px images.

    None if even the first stage's map is smaller.
    """
    deepest = None
    with eval_mode(encoder):
        try:
            # The walk is lazy, so no stage is computed whose input is already too small.
            for name, feature_map in encoder.walk(torch.zeros(1, encoder.in_channels, size, size)):
                if min(feature_map.shape[2:]) < least:
                    break
                deepest = name
        except RuntimeError:  # torch: the map has become too small for the next module
            pass
    return deepest


def check_input(encoder: Encoder, size: int) -> None:
    """Make sure that the encoder takes images of ``size`` by ``size`` pixels.

    Two images pass through on the meta device: shapes are checked as in a real forward pass, at no
    cost in arithmetic.

    Raises:
        UsageError: It does not; the message names the smallest size that works.
    """
    if encoder.image_size is not None and encoder.image_size != size:
        raise UsageError(
            f"{encoder.name} was built for {encoder.image_size} px images and cannot take {size} "
            f"px; type --image-size {encoder.image_size}"
        )
    if _accepts(encoder, size):
        return
    smallest = _smallest_accepted(encoder, size)
    raise UsageError(
        f"{encoder.name} cannot take {size} px images (its smallest is {smallest} px); "
        f"type --backbone resnet10_w32 or --image-size {math.ceil(smallest / 32) * 32}"
    )


@torch.no_grad()
def map_shape(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels C and side n of the last map ``[B, C, n, n]`` of ``size`` px images."""
    device = next(encoder.parameters()).device
    with eval_mode(encoder):
        feature_map = encoder.map(torch.zeros(2, encoder.in_channels, size, size, device=device))
    return feature_map.shape[1], feature_map.shape[2]


def _smallest_accepted(encoder: Encoder, size: int) -> int:
    """The smallest accepted size in pixels above ``size``, which is not accepted."""
    # Usually little is missing: the step doubles until a size is accepted, then bisection.
    low, step = size, 1
    while low + step < _LARGEST_SEARCHED and not _accepts(encoder, low + step):
        low, step = low + step, 2 * step
    high = min(low + step, _LARGEST_SEARCHED)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _accepts(encoder, middle) else (middle, high)
    return high


def _accepts(encoder: Encoder, size: int) -> bool:
    try:
        run_on_meta(encoder, torch.zeros(2, encoder.in_channels, size, size, device="meta"))
    except RuntimeError:
        return False
    return True
