"""Guards against shortcuts in context prediction: channel dropping and random downsampling.

Doersch, Gupta & Efros 2015, sections 3.1 and 3.2. Letters: B images, N patches of side p.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.per_image_rng import PerImageRNG


def replace_other_channels(
    rng: PerImageRNG, planes: Tensor, kept: Tensor, channels: int = 3, noise: float = 0.01
) -> Tensor:
    """Fill the other channels of each patch, those that are not kept, with noise (section 3.1).

    Args:
        rng: Random streams of the images.
        planes: float ``[B, N, 1, h, w]``, the kept channels, of unit standard deviation.
        kept: int64 ``[B, N]`` in 0..C-1, which channel they are.
        channels: C, of the patch.
        noise: Standard deviation of the noise; the paper's is 1/100 of the kept channel's.

    Returns:
        float ``[B, N, C, h, w]``.
    """
    images, count, _, height, width = planes.shape
    first = channels * torch.arange(images * count, device=planes.device).view(images, count, 1)
    others = first + (kept[..., None] + torch.arange(1, channels, device=planes.device)) % channels
    patches = planes.new_empty(images * count * channels, height, width)
    patches.index_copy_(0, (first[..., 0] + kept).flatten(), planes.flatten(0, 2))
    values = rng.normal(count, channels - 1, height, width).mul_(noise)
    patches.index_copy_(0, others.flatten(), values.flatten(0, 2))
    return patches.view(images, count, channels, height, width)


def downsampled_side(uniform: Tensor, patch: int) -> Tensor:
    """Side to which a patch is downsampled so that its number of pixels is uniform (section 3.2).

    Args:
        uniform: Numbers in [0, 1), any shape.
        patch: Side of the patch in pixels.

    Returns:
        int64 of the same shape, from a tenth of the side (10 of 96, at least 6 px) to the side less
        2.
    """
    least, most = _least_side(patch), patch - 1
    # The number from which each side is reached: a root would need float64, which Apple's GPUs have
    # not.
    reached = tuple((side**2 - least**2) / (most**2 - least**2) for side in range(least + 1, most))
    return least + torch.bucketize(
        uniform, cached_tensor(reached, uniform.device, uniform.dtype), right=True
    )


def downsampling_matrices(patch: int) -> Tensor:
    """Matrices ``[n, p, p]`` that downsample a column of p pixels to each side and upsample it.

    Resizing is linear along each axis, so that patches of many sides are resized by one batched
    product. The last matrix is the identity, for the side p itself.
    """
    identity = torch.eye(patch)
    matrices = []
    for side in range(_least_side(patch), patch):
        # Each column of the identity is resized along one axis; the other axis only tells the
        # columns apart.
        small = F.interpolate(identity[None, None], (side, patch), mode="bilinear", antialias=True)
        matrices.append(F.interpolate(small, (patch, patch), mode="bilinear")[0, 0])
    return torch.stack([*matrices, identity])


def downsampled(patches: Tensor, side: Tensor, matrices: Tensor) -> Tensor:
    """Downsample patches and upsample them again, which changes their sharpness only.

    Args:
        patches: float ``[B, N, C, p, p]``.
        side: int64 ``[B, N]``, as `downsampled_side` gives it, or p for a patch left as it is.
        matrices: From `downsampling_matrices`.
    """
    along = matrices[side - _least_side(patches.shape[-1])][:, :, None]  # [B, N, 1, p, p]
    return along @ patches @ along.transpose(-1, -2)


def _least_side(patch: int) -> int:
    return max(6, math.floor(10 * patch / 96 + 0.5))
