"""Cut square patches out of a batch of images, and lay them out again.

Shapes: B images, P patches each, C channels, t patch side in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.cached_tensors import cached_tensor


def cut(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Cut P patches out of each image in one indexed copy.

    Bytes that lie channels-last stay so, and are cut ten times as fast: row by row and not pixel by
    pixel.

    Args:
        images: ``[B, C, H, W]``, any dtype.
        top: int64 ``[B, P]``, or ``[B, P, C]`` for a place of its own per channel; row of the first
            pixel.
        left: Like ``top``, column of the first pixel.
        size: Side t of the patches.

    Returns:
        ``[B, P, C, t, t]`` of the dtype of ``images``.
    """
    batch, channels = images.shape[:2]
    if images.dtype == torch.uint8 and images.permute(0, 2, 3, 1).is_contiguous():
        return _cut_rows(images, top, left, size)
    if top.dim() == 2:
        top, left = top[..., None], left[..., None]
    windows = images.unfold(2, size, 1).unfold(
        3, size, 1
    )  # a view [B, C, H-t+1, W-t+1, t, t]: nothing is copied
    b = torch.arange(batch, device=images.device)[:, None, None]
    c = torch.arange(channels, device=images.device)[None, None, :]
    return windows[b, c, top, left]


def cut_resampled(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes out of each image and resize them: bilinear, at twice the size and averaged.

    Args:
        images: uint8 or float ``[B, C, H, W]``.
        boxes: float ``[B, P, 4]``: top, left, height, width in pixels, inside the image.
        size: Side t of the patches.

    Returns:
        float32 ``[B, P, C, t, t]``.
    """
    height, width = images.shape[-2:]
    steps = (torch.arange(2 * size, device=images.device) + 0.5) / (2 * size)
    rows = (boxes[..., 0, None] + steps * boxes[..., 2, None]) * (2 / height) - 1  # [B, P, 2t]
    columns = (boxes[..., 1, None] + steps * boxes[..., 3, None]) * (2 / width) - 1
    shape = (*rows.shape, 2 * size)
    grid = torch.stack([columns[..., None, :].expand(shape), rows[..., None].expand(shape)], dim=-1)
    sampled = F.grid_sample(
        images.to(torch.float32), grid.flatten(1, 2), padding_mode="border", align_corners=False
    )  # [B, C, P * 2t, 2t]
    halved = F.avg_pool2d(sampled, 2)
    return halved.view(*halved.shape[:2], boxes.shape[1], size, size).transpose(1, 2)


def _cut_rows(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """`cut` of bytes that lie channels-last."""
    batch, channels, height, width = images.shape
    rows = (
        images.permute(0, 2, 3, 1).flatten().unfold(0, size * channels, 1)
    )  # a view: from every byte, a patch's row
    below = torch.arange(size, device=images.device) * width
    first = torch.arange(batch, device=images.device)[:, None] * height

    def cut_out(top: Tensor, left: Tensor) -> Tensor:
        start = ((first + top) * width + left)[..., None] + below  # [B, P, t]
        return rows.index_select(0, start.flatten() * channels)

    if top.dim() == 2:
        cut_patches = cut_out(top, left)
    else:  # a cut for each channel, of which that channel is kept
        cut_patches = torch.zeros(
            top.shape[0] * top.shape[1] * size,
            size * channels,
            dtype=torch.uint8,
            device=images.device,
        )
        for channel in range(channels):
            only = tuple(255 * (c == channel) for c in range(channels)) * size
            kept = cached_tensor(only, images.device, torch.uint8)
            cut_patches.bitwise_or_(
                cut_out(top[..., channel], left[..., channel]).bitwise_and_(kept)
            )
    return cut_patches.view(*top.shape[:2], size, size, channels).permute(0, 1, 4, 2, 3)


def assemble(patches: Tensor, columns: int, gap: int = 0, fill: float = 0) -> Tensor:
    """Lay patches out in rows, reading order, with ``gap`` pixels of ``fill`` between and around
    them.

    Args:
        patches: ``[B, P, C, t, t]`` with P a multiple of ``columns``.
        columns: Patches in a row.
        gap: Pixels between neighbors and at the border.
        fill: Value of those pixels.

    Returns:
        ``[B, C, rows*(t+gap)+gap, columns*(t+gap)+gap]``.
    """
    images, count, channels, size = patches.shape[:4]
    step = size + gap
    grid = patches.new_full(
        (images, channels, count // columns * step + gap, columns * step + gap), fill
    )
    for i in range(count):
        y, x = divmod(i, columns)
        grid[:, :, y * step + gap : (y + 1) * step, x * step + gap : (x + 1) * step] = patches[:, i]
    return grid


def standardize(patches: Tensor, level: float = 1 / 255, jointly: bool = False) -> Tensor:
    """Give each channel of each patch zero mean and unit (population) deviation.

    Args:
        patches: uint8 or float ``[..., C, t, t]``; statistics of bytes are exact, and twice as
            fast.
        level: One gray level on the scale of ``patches``, the least deviation divided by. A
            constant patch becomes exactly zero, never NaN.
        jointly: Divide all channels of a patch by one deviation, which keeps its colors; means are
            still removed from each.

    Returns:
        float32, or float64 of float64, of the same shape.
    """
    channels, height, width = patches.shape[-3:]
    last = patches.stride(-3) == 1 and channels > 1
    wide = (
        torch.float32 if patches.device.type == "mps" else torch.float64
    )  # Apple's GPUs have nothing wider
    # Channels last: a row of r, g, b, r, ... is taken as a whole.
    rows = (
        patches.movedim(-3, -1).flatten(-2) if last else patches
    )  # [..., H, W * C] or [..., C, H, W]

    def mean(values: Tensor) -> Tensor:  # [..., C]
        # Sums of up to 258 rows of squared bytes are below 2^24 and exact in float32.
        columns = values.sum(dim=-2).to(wide)
        by_channel = (
            columns.view(*columns.shape[:-1], width, channels).sum(dim=-2)
            if last
            else columns.sum(dim=-1)
        )
        return by_channel / (height * width)

    def spread(values: Tensor) -> Tensor:  # to the shape of rows
        values = values.to(seen.dtype)
        return (
            values.repeat(*[1] * (values.dim() - 1), width)[..., None, :]
            if last
            else values[..., None, None]
        )

    if patches.dtype == torch.uint8 and wide == torch.float64:
        seen = rows.to(torch.float32)
        middle = mean(seen)
        variance = mean(seen * seen) - middle.square()
    else:
        # Floats are centered first, else what is left of their squares is rounding. Torch's own
        # deviation takes ten times as long on a CPU.
        seen = rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)
        seen.sub_(spread(mean(seen)))
        middle = torch.zeros(patches.shape[:-2], dtype=wide, device=patches.device)
        variance = mean(seen * seen)
    if jointly:
        variance = variance.mean(dim=-1, keepdim=True).expand_as(variance)
    deviation = variance.clamp_min(0).sqrt()
    # What a constant patch has left is the rounding of its mean, far below a gray level.
    scale = torch.where(deviation < 1e-3 * level, 0.0, 1 / deviation.clamp_min(level))
    torch.addcmul(spread(-middle * scale), seen, spread(scale), out=seen)
    return seen.view(*seen.shape[:-1], width, channels).movedim(-1, -3) if last else seen


def resize(patches: Tensor, size: int) -> Tensor:
    """Resize square patches to side ``size``, bilinear, antialiased when shrinking.

    Args:
        patches: uint8 or float ``[..., C, t, t]``. On a CPU bytes take half the time of floats.
        size: Side in pixels.

    Returns:
        ``[..., C, size, size]``: float, or bytes for bytes.
    """
    if patches.shape[-1] == size:
        return patches
    flat = patches.flatten(0, -4)
    bytes_on_gpu = (
        flat.dtype == torch.uint8 and flat.device.type != "cpu"
    )  # where torch resizes floats only
    shown = flat.to(torch.float32) if bytes_on_gpu else flat
    resized = F.interpolate(shown, (size, size), mode="bilinear", antialias=size < flat.shape[-1])
    resized = resized.round_().to(torch.uint8) if bytes_on_gpu else resized
    return resized.view(*patches.shape[:-2], size, size)
