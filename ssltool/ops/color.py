"""Colour operations on batches, with a choice per picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.ops.choose import choose
from ssltool.ops.random import Draws


def to_gray(images: Tensor, which: Tensor) -> Tensor:
    """Replace the channels of the chosen pictures by their plain mean, rounded for integer pictures.

    Args:
        images: ``[B, 3, H, W]``, uint8 or float.
        which: bool ``[B]``, true = made gray.

    Returns:
        Like ``images``.
    """
    r, g, b = images.unbind(dim=1)
    mean = r.to(torch.float32).add_(g).add_(b).div_(3)[:, None]  # faster on a CPU than a reduction over three planes
    if not images.is_floating_point():
        mean = mean.round_()
    return choose(which, mean.to(images.dtype), images)


def project_color(images: Tensor, which: Tensor) -> Tensor:
    """Remove the green-magenta axis from the chosen pictures: x -> x (I - a'a / aa'), a = (-1, 2, -1).

    Along this axis lies lateral chromatic aberration (Doersch et al. 2015, section 3.1).

    Args:
        images: float ``[B, 3, H, W]``.
        which: bool ``[B]``, true = projected.

    Returns:
        float ``[B, 3, H, W]``; values may leave the range of the input slightly.
    """
    r, g, b = images.unbind(dim=1)
    along = (g * 2).sub_(r).sub_(b).div_(6)  # a a' = 6
    along.mul_(which.to(along.dtype)[:, None, None])
    return torch.stack([r + along, torch.sub(g, along, alpha=2), b + along], dim=1)


def drop_channels(draws: Draws, patches: Tensor, noise: float = 0.01) -> Tensor:
    """Keep one random channel of each patch and put noise into the others (Doersch et al. 2015, section 3.1).

    Args:
        draws: The pictures' random numbers.
        patches: float ``[B, N, 3, h, w]`` with unit deviation.
        noise: Deviation of the noise; the paper's is a hundredth of the kept channel's.

    Returns:
        float ``[B, N, 3, h, w]``.
    """
    count, channels, height, width = patches.shape[1:]
    kept = draws.integers(channels, count)[..., None] == torch.arange(channels, device=patches.device)
    drawn = draws.normal(count, channels, height, width).mul_(noise)
    return choose(kept.flatten(), patches.flatten(0, 2), drawn.flatten(0, 2)).view_as(patches)
