"""Interventions on images and patches that remove one low-level cue and leave the content.

Each comes with its control: a change of the same strength that leaves the cue, so that the
difference of the two scores is due to the cue and not to the damage.

Letters: B images, N patches each, t patch side in pixels, S image side. Values are on a 0..255
scale, patches float ``[B, N, 3, t, t]``.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

_BORDER = 1 / 16  # of a patch's side
_DARKEST = 0.6  # least gain of `relight`


def replace_border(patches: Tensor, donors: Tensor) -> Tensor:
    """Replace the border of each patch, a sixteenth of its side and at least 1 px, by that of
    another patch.

    Args:
        patches: ``[B, N, 3, t, t]``.
        donors: Alike. Patches of another image in the same place bring edges that continue from
            patch to patch as before, and are the control of patches of other places.
    """
    side = patches.shape[-1]
    width = max(1, round(_BORDER * side))
    replaced = donors.clone()
    inside = (..., slice(width, side - width), slice(width, side - width))
    replaced[inside] = patches[inside]
    return replaced


def shift_channels(patches: Tensor, shift: Tensor) -> Tensor:
    """Translate each channel of each patch by whole pixels; pixels of the border are repeated.

    Args:
        patches: ``[B, N, 3, t, t]``.
        shift: int64 ``[B, N, 3, 2]``, rows and columns. The same shift of all channels is the
            control of shifts of their own.
    """
    side = patches.shape[-1]
    pixels = torch.arange(side, device=patches.device)
    rows, columns = ((pixels - shift[..., i, None]).clamp(0, side - 1) for i in (0, 1))
    shifted = patches.gather(-2, rows[..., :, None].expand_as(patches))
    return shifted.gather(-1, columns[..., None, :].expand_as(patches))


def relight(patches: Tensor, gain: Tensor, level: Tensor) -> Tensor:
    """Change brightness and contrast of each patch without clipping: g x + 255 l (1 - g).

    Args:
        patches: ``[B, N, 3, t, t]``.
        gain: float ``[B, N]`` in 0..1, mapped to gains g of 0.6 to 1.
        level: float ``[B, N]`` in 0..1, l: what the range shrinks towards, black to white.
    """
    g = (_DARKEST + (1 - _DARKEST) * gain)[..., None, None, None]
    return g * patches + 255 * level[..., None, None, None] * (1 - g)


def soften(patches: Tensor, amount: Tensor) -> Tensor:
    """Mix each patch with its blurred copy; ``amount`` float ``[B, N]`` in 0..1 is the share."""
    amount = amount[..., None, None, None]
    return torch.lerp(patches, blur(patches.flatten(0, 1)).view_as(patches), amount)


def blur(images: Tensor, sigma: float = 1.0) -> Tensor:
    """Gaussian blur of ``[B, C, S, S]``; float. The border is reflected."""
    reach = min(math.ceil(3 * sigma), images.shape[-1] - 1)
    x = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = images.to(torch.float32).flatten(0, 1)[:, None]
    padded = F.pad(flat, [reach] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(rows, kernel[None, None, None, :]).view(images.shape)


def blur_chroma(images: Tensor, sigma: float = 2.0) -> Tensor:
    """Blur what the channels differ by and keep their mean: fringes of color vanish, the detail of
    the lightness stays. Images without color, and what an encoder of one channel sees, do not
    change.

    Args:
        images: ``[B, 3, S, S]``.
        sigma: Width of the Gaussian in pixels.
    """
    mean = images.to(torch.float32).mean(dim=1, keepdim=True)
    return mean + blur(images - mean, sigma)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Compress images uint8 ``[B, 3, S, S]`` as JPEG, without subsampling of color, and decode
    them.
    """
    decoded = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        with Image.open(file) as opened:
            decoded.append(np.asarray(opened))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(images.device)
