"""Image sizes that an encoder accepts, and the sizes of its feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ssltool.encoders.dry_run import eval_mode, run_on_meta
from ssltool.encoders.encoder import Encoder
from ssltool.errors import UsageError

_LARGEST_SEARCHED = 512
_MISFITS = (RuntimeError, AssertionError)  # of torch and of timm, for inputs that are too small


@torch.no_grad()
def deepest_stage(encoder: Encoder, size: int, least: int) -> str | None:
    """The last stage whose map is at least ``least`` by ``least``, for ``size`` px images.

    None if even the first stage's map is smaller.
    """
    deepest, device = None, next(encoder.parameters()).device
    images = torch.zeros(1, encoder.in_channels, size, size, device=device)
    with eval_mode(encoder):
        try:
            # The walk is lazy, so no stage is computed whose input is already too small.
            for name, feature_map in encoder.walk(images):
                if min(feature_map.shape[2:]) < least:
                    break
                deepest = name
        except _MISFITS:  # the map has become too small for the next module
            pass
    return deepest


def check_input(
    encoder: Encoder,
    size: int,
    *,
    least: int = 1,
    options: Callable[[int], str] = "--image-size {}".format,
) -> None:
    """Make sure that the encoder takes inputs of ``size`` by ``size`` pixels.

    Two images pass through on the meta device: shapes are checked as in a real forward pass, at no
    cost in arithmetic.

    Args:
        encoder: Not changed.
        size: Side in pixels.
        least: Smallest side of a stage's map; with more than 1 the encoder may be cut after any
            stage.
        options: What to type for inputs of another size.

    Raises:
        UsageError: It does not; the message names the smallest size that works.
    """
    if encoder.image_size is not None and encoder.image_size != size:
        raise UsageError(
            f"{encoder.name} was built for {encoder.image_size} px images and cannot take {size} "
            f"px; type {options(encoder.image_size)}"
        )
    if _fits(encoder, size, least):
        return
    if encoder.patch is not None:
        smallest = advised = encoder.stages[0].stride * least
    else:
        smallest = _smallest_fitting(encoder, size, least)
        advised = math.ceil(smallest / 32) * 32
    raise misfit(encoder.name, size, f"its smallest is {smallest} px", options(advised))


def smallest_size(encoder: Encoder, *, least: int = 1) -> int:
    """Side in pixels of the smallest images that `check_input` lets pass; the usual side of
    networks that take few sizes only, such as timm's MaxViTs.
    """
    return 1 if _fits(encoder, 1, least) else _smallest_fitting(encoder, 1, least)


def misfit(name: str, size: int, reason: str, advice: str) -> UsageError:
    """The error that a backbone cannot take inputs of a size."""
    return UsageError(
        f"{name} cannot take {size} px inputs ({reason}); type --backbone resnet10_w32 or {advice}"
    )


@torch.no_grad()
def map_shape(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels C and side n of the last map ``[B, C, n, n]`` of ``size`` px images."""
    device = next(encoder.parameters()).device
    with eval_mode(encoder):
        feature_map = encoder.map(torch.zeros(2, encoder.in_channels, size, size, device=device))
    return feature_map.shape[1], feature_map.shape[2]


def _smallest_fitting(encoder: Encoder, size: int, least: int) -> int:
    """The smallest size in pixels above ``size``, which does not fit, that does; the usual one of
    networks that take few sizes only.
    """
    # Usually little is missing: the step doubles until a size fits, then bisection.
    low, step = size, 1
    while low + step < _LARGEST_SEARCHED and not _fits(encoder, low + step, least):
        low, step = low + step, 2 * step
    high = min(low + step, _LARGEST_SEARCHED)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(encoder, middle, least) else (middle, high)
    return high if _fits(encoder, high, least) else encoder.usual_size


def _fits(encoder: Encoder, size: int, least: int) -> bool:
    if least > 1:
        return deepest_stage(encoder, size, least) is not None
    return accepts(encoder, size)


def accepts(encoder: Encoder, size: int) -> bool:
    """Whether the encoder takes images of ``size`` by ``size`` pixels, see `check_input`."""
    if encoder.image_size not in (None, size) or (encoder.patch and size % encoder.patch):
        return False
    try:
        run_on_meta(encoder, torch.zeros(2, encoder.in_channels, size, size, device="meta"))
    except _MISFITS:
        return False
    return True
