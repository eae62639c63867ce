"""Color prior: share of each bin in the images, counted before training.

Zhang, Isola & Efros 2016, section 2.2. Letters: B images of side S, t side of the target map, Q
bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.errors import DataError
from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.ab_bins import SoftTarget
from ssltool.methods.colorization.options import NO_COLOR, GrayRule
from ssltool.ops.lab import rgb_to_lab

_GRAY = 5.0  # of a, b or chroma: below it a pixel counts as gray (the release's threshold)
_MAX_IMAGES = 10_000  # counted at most
_MIN_COLORED, _AGREEMENT = 256, 0.02  # images; total variation between halves at which to stop
_VIVID = 30.0  # chroma; the most frequent color of natural images is seldom beyond it


class ColorCounts(NamedTuple):
    """Statistics of the colors of a sample of images.

    Attributes:
        shares: float64 ``[Q]``, share of the pixels in each bin, on the CPU.
        images: Images counted.
        gray: How many of them are gray.
    """

    shares: Tensor
    images: int
    gray: int


def count_colors(
    batches: Iterable[tuple[Tensor, Tensor]],
    encode: Callable[[Tensor], SoftTarget],
    bins: int,
    stride: int,
    gray_rule: GrayRule,
) -> ColorCounts:
    """Count the bins of the images' pixels until two halves of the images agree.

    Args:
        batches: Images uint8 ``[B, 3, S, S]`` and their index.
        encode: Colors ``[..., 2]`` -> soft targets over the bins.
        bins: Q.
        stride: Pixels between those counted.
        gray_rule: When an image counts as gray.

    Raises:
        DataError: All images are gray.
    """
    halves = torch.zeros(2, bins, dtype=torch.float64)
    seen, gray = 0, 0
    for images, _ in batches:
        ab = rgb_to_lab(sample_points(images, stride))[:, 1:]
        colored = ab[~is_gray(ab, gray_rule)]
        for half in range(2):  # every other image with color, continued from the last batch
            part = colored[(seen - gray + half) % 2 :: 2].movedim(1, -1)
            halves[half] += ab_bins.total(encode(part), bins)
        seen += len(images)
        gray += len(images) - len(colored)
        shares = halves / halves.sum(dim=1, keepdim=True).clamp_min(1)
        difference = float((shares[0] - shares[1]).abs().sum()) / 2
        if seen >= _MAX_IMAGES or (seen - gray >= _MIN_COLORED and difference < _AGREEMENT):
            break
    if seen == gray:
        raise DataError(f"all of the {seen} sampled images are gray; {NO_COLOR}")
    return ColorCounts(halves.sum(dim=0) / halves.sum(), seen, gray)


def summary(prior: Tensor, centers: Tensor, counted: ColorCounts, remark: str) -> str:
    """One line on the prior ``[Q]``: images counted, a remark, and a warning of odd colors."""
    seen, gray = counted.images, counted.gray
    line = f"colors of {seen:,} images, {gray:,} of them gray ({gray / seen:.1%}) with weight 0"
    line += remark
    a, b = centers[int(prior.argmax())].tolist()
    if math.hypot(a, b) > _VIVID:
        line += (
            f"; the most frequent color is vivid, a = {a:.0f}, b = {b:.0f}: make sure that the "
            "images are sRGB"
        )
    return line


def sample_points(images: Tensor, stride: int) -> Tensor:
    """The central pixel of each cell: ``[B, C, S, S]`` -> ``[B, C, t, t]``, t = ceil(S / stride).

    Single pixels, because averages are duller; central, because corners would shift the colors when
    upsampled.
    """
    side = images.shape[-1]
    count = -(-side // stride)
    middle = ((torch.arange(count, device=images.device) + 0.5) * (side / count)).long()
    return images[..., middle[:, None], middle]


def is_gray(ab: Tensor, rule: GrayRule) -> Tensor:
    """Whether images ``[B, 2, h, w]`` have no color to learn, bool ``[B]``; see
    ``ColorizationOptions.gray_rule``.
    """
    if rule == "any":
        return ab.abs().flatten(1).amax(dim=1) <= _GRAY
    chroma = ab.norm(dim=1).flatten(1)
    most: Tensor = chroma.kthvalue(math.ceil(0.99 * chroma.shape[1]), dim=1).values
    return most < _GRAY
