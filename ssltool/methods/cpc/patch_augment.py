"""Batched patch augmentation, independent for each patch.

Contrastive predictive coding is solved too easily by colors and edges that neighboring patches
share; augmenting each patch on its own removes them (Hénaff et al. 2020, section 4.1 and appendix;
van den Oord et al. 2018, section 3.2).

Of the sixteen AutoAugment primitives fifteen are here. Sample pairing is left out: it blends
another patch into this one, and when that is a patch of the same image a context may contain its
own target.

Letters: B images, N patches each, M = B*N, P patch side in pixels. Values are on a 0..1 scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.methods.cpc.options import Level
from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import select

PRIMITIVES = (
    *(
        "shear-x",
        "shear-y",
        "translate-x",
        "translate-y",
        "rotate",
        "auto-contrast",
        "invert",
        "equalize",
    ),
    *("solarize", "posterize", "contrast", "color", "brightness", "sharpness", "cutout"),
)
"""AutoAugment's primitives without sample pairing (Cubuk et al. 2019, table 6, whose greatest
ranges are used).
"""

_BINS = 256


def augment(
    patches: Tensor, level: Level, rng: PerImageRNG, *, gray: bool = False, rgb: bool = True
) -> Tensor:
    """Change each patch by numbers drawn for it alone.

    - ``none``: nothing.
    - ``v1``: a random crop 1/16 smaller, padded back; color removed.
    - ``light``: the same crop; brightness and contrast by 0.6 to 1.4; noise of deviation 0.1; color
      dropped with probability 0.25.
    - ``v2``: two of the fifteen primitives; with probability 0.2 each an elastic deformation with a
      shear, and a new histogram for every channel; with probability 0.8 brightness, contrast,
      saturation and hue; color dropped with probability 0.25. Everything that moves pixels is done
      first, in one resampling.

    Args:
        patches: float ``[B, N, 3, P, P]``, 0..1, or with other channels.
        level: How much.
        rng: The images' random numbers.
        gray: The patches have no color, and shall have none: channels get the same noise and the
            same histogram.
        rgb: Whether the channels are R, G and B. Others keep their saturation and hue and are not
            made gray; where color would be dropped one of them takes the place of all.

    Returns:
        float ``[B, N, 3, P, P]``, 0..1.
    """
    if level == "none":
        return patches
    x = patches.flatten(0, 1)
    if level == "v2":
        x = _two_primitives(x, rng, patches.shape[1], rgb)
        x = _histograms(x, rng, patches.shape[1], gray)
        x = _color_jitter(x, rng, patches.shape[1], rgb)
        x = drop_color(x, *_dropped(rng, patches, 0.25))
    else:
        x = shift_crop(
            x, rng.integers(crop_slack(x.shape[-1]) + 1, patches.shape[1], 2).flatten(0, 1)
        )
        if level == "v1":
            x = x.mean(dim=1, keepdim=True).expand_as(x) if rgb else x
        else:
            factors = 0.6 + 0.8 * rng.uniform(patches.shape[1], 2).flatten(0, 1)
            x = contrast(x * factors[:, :1, None, None], factors[:, 1])
            x = x.add_(
                rng.normal(patches.shape[1], 1 if gray else x.shape[1], *x.shape[2:]).flatten(0, 1),
                alpha=0.1,
            )
            x = drop_color(x, *_dropped(rng, patches, 0.25))
    return x.clamp(0, 1).view_as(patches)


def crop_slack(side: int) -> int:
    """Pixels by which the random crop of a patch is smaller than it: 4 of 64 in the paper, at least
    one.
    """
    return max(1, math.floor(side / 16 + 0.5))


def shift_crop(x: Tensor, start: Tensor) -> Tensor:
    """Cut a square `crop_slack` pixels smaller out of each patch and repeat its border pixels up to
    the old side.

    Args:
        x: ``[M, C, P, P]``.
        start: int64 ``[M, 2]``, row and column of the square's first pixel, 0..slack.
    """
    side, slack = x.shape[-1], crop_slack(x.shape[-1])
    window = side - slack
    low = slack // 2
    high = low + window
    row, column = start.unbind(dim=1)
    moved = torch.empty_like(x)
    # The square goes to the middle, whole rows at a time; what is outside repeats its border.
    squares = x.unfold(2, window, 1).unfold(
        3, window, 1
    )  # a view [M, C, slack+1, slack+1, window, window]
    moved[:, :, low:high, low:high] = squares[torch.arange(len(x), device=x.device), :, row, column]
    moved[:, :, low:high, :low] = moved[:, :, low:high, low : low + 1]
    moved[:, :, low:high, high:] = moved[:, :, low:high, high - 1 : high]
    moved[:, :, :low] = moved[:, :, low : low + 1]
    moved[:, :, high:] = moved[:, :, high - 1 : high]
    return moved


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each patch's ``[M, C, P, P]`` distance from its mean brightness by ``[M]``."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    factor = factor[:, None, None, None]
    return (x * factor).add_(mean * (1 - factor))


def drop_color(x: Tensor, which: Tensor, kept: Tensor) -> Tensor:
    """Replace the other channels of the chosen patches by the one that is kept; gray patches
    stay as they are.

    Args:
        x: ``[M, C, P, P]``.
        which: bool ``[M]``.
        kept: int64 ``[M]``, 0..C-1.
    """
    one = x[torch.arange(len(x), device=x.device), kept][:, None]
    return select(which, one, x)


def equalize(x: Tensor) -> Tensor:
    """Spread the values of each channel of each patch ``[M, C, P, P]`` evenly over 0..1, at 256
    levels.
    """
    flat = x.flatten(2)
    level = (flat * (_BINS - 1)).round().long().clamp(0, _BINS - 1)
    counts = torch.zeros(*flat.shape[:2], _BINS, dtype=x.dtype, device=x.device)
    counts.scatter_add_(2, level, torch.ones_like(flat))
    below = counts.cumsum(dim=2) - counts / 2  # values of one level share the middle of their ranks
    return (below.gather(2, level) / flat.shape[2]).view_as(x)


def auto_contrast(x: Tensor) -> Tensor:
    """Stretch each channel of each patch ``[M, C, P, P]`` to 0..1; a constant one stays."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-6), x)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` (whole numbers 0..8, broadcast) of the 8-bit values of ``x``."""
    step = torch.exp2(8 - bits)
    return ((x * 255).round() / step).floor() * step / 255


def _dropped(rng: PerImageRNG, patches: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    count, channels = patches.shape[1:3]
    return rng.bernoulli(probability, count).flatten(), rng.integers(channels, count).flatten()


def _two_primitives(x: Tensor, rng: PerImageRNG, count: int, rgb: bool) -> Tensor:
    """Two primitives for each patch and, sometimes, an elastic deformation with a shear."""
    kind = rng.integers(len(PRIMITIVES), count, 2).flatten(0, 1)
    amount = (
        2 * rng.uniform(count, 2).flatten(0, 1) - 1
    )  # from one end of the primitive's range to the other
    is_elastic = rng.bernoulli(0.2, count).flatten()
    bend = rng.normal(count, 2, 4, 4).flatten(0, 1)
    slant = 0.4 * rng.uniform(count).flatten() - 0.2
    x = _moved(x, kind, amount, is_elastic, bend, slant)
    for i in (0, 1):
        x = _repainted(x, kind[:, i], amount[:, i], rgb)
    corner = rng.uniform(count, 2).flatten(0, 1)
    for i in (0, 1):
        x = _cut_out(x, kind[:, i] == PRIMITIVES.index("cutout"), 0.1 * (1 + amount[:, i]), corner)
    return x


def _moved(
    x: Tensor, kind: Tensor, amount: Tensor, is_elastic: Tensor, bend: Tensor, slant: Tensor
) -> Tensor:
    """Shear, translate, rotate and bend each patch in one bilinear resampling that repeats the
    border.
    """

    def drawn(name: str, most: float) -> Tensor:
        return torch.where(kind == PRIMITIVES.index(name), most * amount, 0.0)  # [M, 2]

    zero = torch.zeros_like(amount)
    angle = drawn("rotate", math.pi / 6)
    across = drawn("shear-x", 0.3) + torch.stack(
        [torch.where(is_elastic, slant, 0.0), zero[:, 0]], dim=1
    )
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).view(
        -1, 2, 2, 2
    )
    one = torch.ones_like(amount)
    shear = torch.stack([one, across, drawn("shear-y", 0.3), one], dim=-1).view(-1, 2, 2, 2)
    steps = turn @ shear  # [M, 2, 2, 2]: a matrix for each of the two primitives
    # Sides are 2 long in the coordinates of grid_sample.
    shift = torch.stack(
        [drawn("translate-x", 0.9).sum(dim=1), drawn("translate-y", 0.9).sum(dim=1)], dim=-1
    )
    grid = F.affine_grid(
        torch.cat([steps[:, 0] @ steps[:, 1], shift[:, :, None]], dim=2),
        list(x.shape),
        align_corners=False,
    )
    field = F.interpolate(bend, x.shape[-2:], mode="bicubic", align_corners=True)  # [M, 2, P, P]
    field = torch.where(is_elastic[:, None, None, None], 0.1 * field, 0.0)
    return F.grid_sample(
        x,
        grid + field.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )


def _repainted(x: Tensor, kind: Tensor, amount: Tensor, rgb: bool) -> Tensor:
    """The primitive that changes values in place, if the patch's kind is one; every patch takes
    every path.

    Reading which patches need which primitive would stop a GPU.
    """

    def chosen(name: str) -> Tensor:
        return (kind == PRIMITIVES.index(name))[:, None, None, None]

    strength = ((amount + 1) / 2)[:, None, None, None]
    gray = x.mean(dim=1, keepdim=True)
    plain = torch.where(chosen("contrast"), gray.mean(dim=(2, 3), keepdim=True), x)
    if rgb:
        plain = torch.where(chosen("color"), gray, plain)
    plain = torch.where(chosen("brightness"), 0.0, plain)
    plain = torch.where(chosen("sharpness"), _smooth(x), plain)
    x = plain + (x - plain) * (0.1 + 1.8 * strength)  # the other kinds have plain = x
    x = x.clamp(0, 1)
    x = torch.where(chosen("invert"), 1 - x, x)
    x = torch.where(chosen("solarize") & (x > strength), 1 - x, x)
    x = torch.where(chosen("posterize"), posterize(x, 4 + (strength * 5).floor().clamp(max=4)), x)
    x = torch.where(chosen("auto-contrast"), auto_contrast(x), x)
    return torch.where(chosen("equalize"), equalize(x), x)


def _smooth(x: Tensor) -> Tensor:
    """Average over 3x3 pixels, the middle one counting five times."""
    around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (9 * around + 4 * x) / 13


def _cut_out(x: Tensor, which: Tensor, share: Tensor, location: Tensor) -> Tensor:
    """Paint a square mid-gray: its side is a ``share [M]`` of the patch's, its place ``[M, 2]``
    uniform in 0..1.
    """
    side = x.shape[-1]
    length = (share * side).round()
    start = (location * (side - length[:, None] + 1)).floor()  # [M, 2]
    at = torch.arange(side, device=x.device)
    within = (at >= start[..., None]) & (at < (start + length[:, None])[..., None])  # [M, 2, P]
    square = within[:, 0, :, None] & within[:, 1, None, :]
    return torch.where((which[:, None, None] & square)[:, None], 0.5, x)


def _histograms(x: Tensor, rng: PerImageRNG, count: int, gray: bool) -> Tensor:
    """With probability 0.2, raise each channel to a power of its own between 1/2 and 2."""
    which = rng.bernoulli(0.2, count).flatten()[:, None, None, None]
    power = torch.exp2(2 * rng.uniform(count, x.shape[1]).flatten(0, 1) - 1)[:, :, None, None]
    return torch.where(which, x.clamp_min(1e-6) ** (power[:, :1] if gray else power), x)


def _color_jitter(x: Tensor, rng: PerImageRNG, count: int, rgb: bool) -> Tensor:
    """With probability 0.8: brightness, contrast, saturation and hue (ranges of Szegedy et al.'s
    released code).

    Hue is a turn of the colors around the gray axis, by up to a fifth of the circle, so gray stays
    gray. Channels that are no RGB have neither hue nor saturation.
    """
    which = rng.bernoulli(0.8, count).flatten()[:, None, None, None]
    brightness, factor, saturation, hue = rng.uniform(count, 4).flatten(0, 1).unbind(dim=1)
    lighter = ((2 * brightness - 1) * 32 / 255)[:, None, None, None]
    if not rgb:
        return torch.where(which, contrast(x + lighter, 0.5 + factor).clamp(0, 1), x)
    angle = (2 * hue - 1) * 0.2 * 2 * math.pi
    third = torch.full((3, 3), 1 / 3, device=x.device)
    cross = cached_tensor(((0.0, -1, 1), (1, 0, -1), (-1, 1, 0)), x.device) / math.sqrt(3)
    around = torch.eye(3, device=x.device) - third  # color without brightness
    turn = angle.cos()[:, None, None] * around + angle.sin()[:, None, None] * cross
    matrix = third + (0.5 + saturation)[:, None, None] * turn
    changed = torch.einsum("mij,mjhw->mihw", matrix, x) + lighter
    return torch.where(which, contrast(changed, 0.5 + factor).clamp(0, 1), x)
