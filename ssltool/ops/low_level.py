"""Low-level statistics of images and patches: what a shortcut could be read from.

Letters: t patch side in pixels, C channels; leading dimensions are kept. Values may be on any
scale.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

_REACH = 2  # px, of the offsets between channels
_LEVELS = 4  # of each channel in a color histogram

Statistic = Callable[[Tensor], Tensor]
"""Patches ``[..., C, t, t]`` -> float ``[..., D]``."""

PairStatistic = Callable[[Tensor, Tensor], Tensor]
"""Two patches ``[..., C, t, t]`` -> float ``[..., D]``."""


def color_moments(patches: Tensor) -> Tensor:
    """Mean and deviation of each channel, ``[..., C, t, t]`` -> float ``[..., 2C]``."""
    values = patches.to(torch.float32).flatten(-2)
    return torch.cat([values.mean(dim=-1), values.std(dim=-1, correction=0)], dim=-1)


def channel_offsets(patches: Tensor) -> Tensor:
    """Whether the first and the third channel match the second one better when shifted by up to
    2 px or when shifted the opposite way, ``[..., 3, t, t]`` -> float ``[..., 24]``.

    Differences of correlations, which vanish for textures without an offset. Of patches cut from an
    image with lateral chromatic aberration they tell the direction to the optical center. Zero for
    patches of one channel.
    """
    if patches.shape[-3] == 1:
        return patches.new_zeros(*patches.shape[:-3], 24, dtype=torch.float32)
    values = patches.to(torch.float32)
    middle = _standardized(values[..., 1, _REACH:-_REACH, _REACH:-_REACH])
    size, steps = middle.shape[-1], range(2 * _REACH + 1)

    def matched(channel: int, y: int, x: int) -> Tensor:
        shifted = values[..., channel, y : y + size, x : x + size]
        return (_standardized(shifted) * middle).mean(dim=(-2, -1))

    differences = [
        matched(channel, y, x) - matched(channel, 2 * _REACH - y, 2 * _REACH - x)
        for channel in (0, 2)
        for y, x in product(steps, repeat=2)
        if (y, x) < (_REACH, _REACH)
    ]
    return torch.stack(differences, dim=-1)


def border_differences(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of the pixels that would face each other if the second patch lay at
    each of the eight positions around the first.

    Args:
        first: float ``[..., C, t, t]``.
        second: Like ``first``.

    Returns:
        float ``[..., 8]``, positions in reading order. At the corners the squares of a quarter of
        the side are compared by their means.
    """
    quarter = max(1, first.shape[-1] // 4)

    def facing(patch: Tensor, dy: int, dx: int) -> Tensor:
        """The pixels of a patch that lie towards (dy, dx)."""
        depth = 1 if 0 in (dy, dx) else quarter
        rows, columns = (
            slice(None) if d == 0 else slice(-depth, None) if d > 0 else slice(0, depth)
            for d in (dy, dx)
        )
        part = patch[..., rows, columns]
        return part.flatten(-2) if depth == 1 else part.mean(dim=(-2, -1), keepdim=True).flatten(-2)

    positions = [(dy, dx) for dy, dx in product((-1, 0, 1), repeat=2) if dy or dx]
    differences = [
        (facing(first, dy, dx) - facing(second, -dy, -dx)).abs().mean(dim=(-2, -1))
        for dy, dx in positions
    ]
    return torch.stack(differences, dim=-1)


def color_histograms(images: Tensor) -> Tensor:
    """Shares of 4 x 4 x 4 colors in images uint8 ``[B, 3, S, S]``: float ``[B, 64]``."""
    levels = (images.to(torch.int64) * _LEVELS) // 256
    cells = ((levels[:, 0] * _LEVELS + levels[:, 1]) * _LEVELS + levels[:, 2]).flatten(1)
    return F.one_hot(cells, _LEVELS**3).to(torch.float32).mean(dim=1)


def _standardized(values: Tensor) -> Tensor:
    centered = values - values.mean(dim=(-2, -1), keepdim=True)
    return centered / centered.square().mean(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-6)
