"""Images with a planted shortcut, and small methods trained on them in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.auditing.audit import findings, without_color
from ssltool.auditing.record import Finding
from ssltool.methods.base import DataInfo, Method
from ssltool.methods.registry import find_method
from ssltool.training.optim import build_optimizer


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(name: str, images: Tensor, backbone: str = "resnet20", **options: Any) -> Any:
    """A method for these images, as `pretrain` builds it, without training."""
    scaled = images.float() / 255
    mean, std = (tuple(f(dim=(0, 2, 3)).tolist()) for f in (scaled.mean, scaled.std))
    info = DataInfo(len(images), images.shape[-1], mean=mean, std=std)
    cls = find_method(name)
    torch.manual_seed(0)
    chosen = cls.Options(**options).with_defaults(info)
    inputs = cls.inputs(chosen, info)
    encoder = inputs.build_encoder(backbone, stem="small", in_channels=inputs.channels)
    return cls(chosen, encoder, info)


def trained(
    method: Method[Any, Any], images: Tensor, steps: int, batch: int = 48, lr: float = 0.003
) -> Any:
    optimizer = build_optimizer(
        method, "adamw", lr=lr, weight_decay=0.01, momentum=0.9, lr_scales=method.lr_scales
    )
    method.train()
    method.prepare([(images, torch.arange(len(images)))])
    for step in range(steps):
        index = torch.randperm(len(images), generator=seeded(step))[:batch]
        loss = method(method.view(images[index], index, seeded(step)))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        method.after_step([loss.update])
    return method.eval()


def audited(method: Method[Any, Any], images: Tensor) -> dict[str, Finding]:
    """Findings by ``kind: cue``."""
    assert method.audit is not None
    index = torch.arange(len(images))
    plan = without_color(method.audit.plan(method, 0), images)
    scores = {name: score(images, index) for name, score in plan.conditions.items()}
    return {f"{f.kind}: {f.cue}": f for f in findings(plan, scores)}


def textured_cells(count: int, side: int, grid: int, strength: float = 15) -> Tensor:
    """Content: each cell has gray stripes of its own direction at a random phase, under noise;
    float ``[count, 3, side, side]`` around 128.
    """
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cell = (y * grid // side) * grid + x * grid // side
    angle = cell * (torch.pi / grid**2)
    phase = torch.rand(count, grid**2, generator=seeded(1))[:, cell] * 2 * torch.pi
    stripes = torch.sin((y * angle.sin() + x * angle.cos()) * (2 * torch.pi / 6) + phase)
    noise = torch.randn(count, side, side, generator=seeded(2))
    gray = 128 + strength * stripes + 25 * noise
    return gray[:, None].expand(-1, 3, -1, -1).clone()


def to_bytes(images: Tensor) -> Tensor:
    return images.clamp(0, 255).round().to(torch.uint8)


def brightness_ramp(images: Tensor) -> Tensor:
    """Darker at the top left."""
    side = images.shape[-1]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return images + 100 * (2 * y + x) / (3 * side) - 50


def chromatic_aberration(images: Tensor, pixels: int = 1) -> Tensor:
    """The first channel is displaced outwards and the third inwards, by quadrant."""
    side = images.shape[-1]
    half = side // 2
    result = images.clone()
    for channel, sign in ((0, 1), (2, -1)):
        for dy in (-1, 1):
            for dx in (-1, 1):
                moved = images[:, channel].roll((sign * dy * pixels, sign * dx * pixels), (1, 2))
                rows = slice(0, half) if dy < 0 else slice(half, side)
                columns = slice(0, half) if dx < 0 else slice(half, side)
                result[:, channel, rows, columns] = moved[:, rows, columns]
    return result


def marked_borders(images: Tensor, grid: int) -> Tensor:
    """A line along the borders between cells, of a random color for each image, so that it
    continues from tile to tile.
    """
    side, result = images.shape[-1], images.clone()
    colors = 255 * torch.rand(len(images), 3, 1, 1, generator=seeded(3))
    for at in range(side // grid, side, side // grid):
        result[:, :, at - 1 : at + 1, :] = colors
        result[:, :, :, at - 1 : at + 1] = colors
    return result


def smooth(count: int, side: int, cells: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Random fields, float ``[count, channels, side, side]`` in 0..255."""
    coarse = torch.rand(count, channels, cells, cells, generator=seeded(seed))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255
