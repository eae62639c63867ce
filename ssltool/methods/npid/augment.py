"""Augmentation of instance discrimination: crop, flip, rotation, color jitter, gray, inversion.

Each image of a batch has its own parameters. Colors follow torchvision's functional operations on
float images in 0..1. They are changed in place, which halves the memory traffic of a CPU; the
images are returned as well.

Letters: B images, H and W their sides, S side of the crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import change

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as in torchvision


class AugmentParams(NamedTuple):
    """Sampled parameters of each image; ``[B, 0]`` if switched off.

    Attributes:
        box: int64 ``[B, 4]``, the crop: top, left, height, width.
        flip: bool ``[B]``.
        angle: float ``[B]``, degrees.
        factors: float ``[B, 3]`` of brightness, contrast and saturation.
        turn: float ``[B]``, shift of the hue in parts of the color circle.
        gray: bool ``[B]``.
        inverted: bool ``[B]``.
    """

    box: Tensor
    flip: Tensor
    angle: Tensor
    factors: Tensor
    turn: Tensor
    gray: Tensor
    inverted: Tensor

    def part(self, images: slice) -> AugmentParams:
        """Those of some of the images."""
        return AugmentParams(*(tensor[images] for tensor in self))


@dataclass(frozen=True)
class Augmentation:
    """Strength of each augmentation; 0 switches it off.

    Attributes:
        size: Side S of the crops in pixels.
        crop: Smallest area fraction of a crop, 0..1.
        flip: Probability of a horizontal flip.
        rotation: Largest rotation in degrees.
        jitter: Range s of the factors of brightness, contrast and saturation, 1 - s to 1 + s.
        hue: Largest shift of the hue, 0..0.5.
        grayscale: Probability of converting to gray.
        invert: Probability of inverting the colors.
        rgb: Whether the channels are R, G and B: of others saturation is left alone, and the
            contrast is that of each channel.
    """

    size: int
    crop: float
    flip: float
    rotation: float
    jitter: float
    hue: float
    grayscale: float
    invert: float = 0.0
    rgb: bool = True

    def sample(self, rng: PerImageRNG, side: int, aspects: Tensor | None = None) -> AugmentParams:
        """Sample the parameters for images of a side in pixels, stretched from ``aspects``."""
        box = random_boxes(rng, side, (self.crop, 1.0), aspects=aspects)
        flip = rng.bernoulli(self.flip)
        angle = factors = turn = gray = inverted = torch.empty(rng.count, 0, device=rng.device)
        if self.rotation:
            angle = (2 * rng.uniform() - 1) * self.rotation
        if self.jitter or self.hue:
            factors, turn = sample_jitter(rng, self.jitter, self.hue)
        if self.grayscale:
            gray = rng.bernoulli(self.grayscale)
        if self.invert:
            inverted = rng.bernoulli(self.invert)
        return AugmentParams(box, flip, angle, factors, turn, gray, inverted)

    def apply(self, images: Tensor, params: AugmentParams) -> Tensor:
        """Augment images uint8 ``[B, 3, H, H]``: float ``[B, 3, S, S]`` in 0..1."""
        cropped = resized_crop(images, params.box, self.size, params.flip)
        # From here on channel by channel: colors are sums of whole channels.
        image = torch.empty(cropped.shape, device=images.device).copy_(cropped)
        if self.rotation:
            image = rotate(image, params.angle)
        if not (self.jitter or self.hue):
            image.div_(255)
        else:  # the factor of the brightness scales bytes to 0..1 as well
            factors = params.factors / cached_tensor((255.0, 1.0, 1.0), images.device)
            turn = params.turn if self.hue else None
            image = (
                jitter(image, factors, turn) if self.rgb else jitter_channels(image, factors[:, :2])
            )
        if self.grayscale:
            image = grayscale(image, params.gray)
        return invert(image, params.inverted) if self.invert else image


def sample_jitter(rng: PerImageRNG, strength: float, hue_strength: float) -> tuple[Tensor, Tensor]:
    """Sample the arguments of `jitter`.

    Args:
        rng: Random streams of the images.
        strength: Range s of the factors: uniform in max(0, 1 - s)..1 + s.
        hue_strength: Largest shift of the hue, 0..0.5.

    Returns:
        Factors float ``[B, 3]`` and hue shifts float ``[B]``.
    """
    low = max(0.0, 1 - strength)
    factors = low + rng.uniform(3) * (1 + strength - low)
    return factors, (2 * rng.uniform() - 1) * hue_strength


def jitter(images: Tensor, factors: Tensor, turn: Tensor | None) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in this order.

    Args:
        images: float ``[B, 3, H, W]`` in 0..1.
        factors: float ``[B, 3]`` of brightness, contrast and saturation.
        turn: float ``[B]``, shift of the hue in parts of the color circle; None for none.

    Returns:
        float ``[B, 3, H, W]`` in 0..1.
    """
    images = contrast(brightness(images, factors[:, 0]), factors[:, 1])
    images = saturation(images, factors[:, 2])
    return images if turn is None else hue(images, turn)


def jitter_channels(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness and contrast of each image, the contrast about each channel's own mean.

    Args:
        images: float ``[B, C, H, W]`` in 0..1.
        factors: float ``[B, 2]`` of brightness and contrast.
    """
    images = brightness(images, factors[:, 0])
    factor = factors[:, 1, None, None, None]
    mean = images.mean(dim=(2, 3), keepdim=True)
    return images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image ``[B, 3, H, W]`` by its factor ``[B]``: 0 is black, 1 leaves it."""
    return images.mul_(factor[:, None, None, None]).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each image's distance from its mean gray: 0 is plain gray, 1 leaves it."""
    factor = factor[:, None, None, None]
    # The mean of the weighted sum is the weighted sum of the means, in one pass.
    gray = luma(images.mean(dim=(2, 3), keepdim=True))
    return images.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each image's distance from its own gray version: 0 is gray, 1 leaves it."""
    return torch.lerp(luma(images), images, factor[:, None, None, None], out=images).clamp_(0, 1)


def grayscale(images: Tensor, gray: Tensor) -> Tensor:
    """Show those images ``[B, 3, H, W]`` gray for which ``gray``, bool ``[B]``, is true."""
    return change(gray, images, luma)


def invert(images: Tensor, inverted: Tensor) -> Tensor:
    """Replace x by 1 - x in those images, float ``[B, C, H, W]`` in 0..1, for which ``inverted``,
    bool ``[B]``, is true.
    """
    sign = 1 - 2 * inverted.to(images.dtype)[:, None, None, None]
    return images.mul_(sign).add_((1 - sign) / 2)


def luma(images: Tensor) -> Tensor:
    """Brightness as seen: float ``[B, 3, H, W]`` -> ``[B, 1, H, W]``."""
    r, g, b = images.unbind(dim=1)
    return (r * _LUMA[0]).add_(g, alpha=_LUMA[1]).add_(b, alpha=_LUMA[2])[:, None]


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn each image's colors around the circle of hues, keeping saturation and value.

    Only sums, products and bounds: on a CPU torch compares and chooses ten times as slowly. The
    circle is 6 long, with red at 0, green at 2, blue at 4. A channel is at its highest up to 1 away
    from its own hue and falls linearly to its lowest at 2, so a color with m as lowest channel and
    chroma C lies 1 + (g + b - r - m) / C away from red, towards green if g > b.

    Args:
        images: float ``[B, 3, H, W]`` in 0..1.
        turn: float ``[B]``, part of the circle, -0.5..0.5.
    """
    r, g, b = images.unbind(dim=1)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = torch.maximum(torch.maximum(r, g), b).sub_(low)
    hue = (g + b).sub_(r).sub_(low).div_(chroma.clamp_min(1e-9)).add_(1).copysign_(g - b)  # -3..3
    own = cached_tensor((0.0, 2.0, 4.0), images.device)
    offset = (6 * turn[:, None] - own + 3).remainder(6) - 3
    near = torch.empty_like(images)  # given to torch, which else loops over the channels innermost
    torch.add(hue[:, None], offset[..., None, None], out=near)
    near.abs_().sub_(3).abs_()  # 3 at a channel's own hue, 0 opposite to it
    return torch.addcmul((low - chroma)[:, None], chroma[:, None], near.clamp_(1, 2), out=images)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image counter-clockwise about its center, bilinear; what comes in from outside
    continues the edge, since black corners would tell the angle.

    Args:
        images: float ``[B, C, S, S]``, square.
        degrees: float ``[B]``.
    """
    angle = degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    # Rows of the map from a place in the result to the place in the image that is shown there.
    matrix = torch.stack(
        [torch.stack([cos, -sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1)], dim=1
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
