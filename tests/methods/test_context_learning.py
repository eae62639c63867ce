"""Context prediction and inpainting learn where they can, and only where they should."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.encoders.registry import build_encoder
from ssltool.methods.base import Method
from ssltool.methods.context_encoder.options import ContextEncoderOptions
from ssltool.methods.context_encoder.task import ContextEncoder
from ssltool.methods.context_prediction.options import ContextPredictionOptions
from ssltool.methods.context_prediction.task import ContextPrediction
from ssltool.methods.options import DataInfo
from ssltool.training.optim import build_optimizer

pytestmark = pytest.mark.slow


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(method: Method[Any, Any], images: Tensor, steps: int, lr: float) -> Any:
    optimizer = build_optimizer(
        method, "adamw", lr=lr, weight_decay=0.01, momentum=0.9, lr_scales=method.lr_scales
    )
    method.train()
    for step in range(steps):
        index = torch.randperm(len(images), generator=seeded(step))[:48]
        loss = method(method.view(images[index], index, seeded(step))).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method.eval()


def context_prediction(images: Tensor, steps: int, **options: Any) -> ContextPrediction:
    info = DataInfo(len(images), images.shape[-1])
    torch.manual_seed(0)
    chosen = ContextPredictionOptions(fc6=64, fc7=64, pairs=8, **options).with_defaults(info)
    method = ContextPrediction(chosen, build_encoder("resnet10_w32"), info)
    found: ContextPrediction = trained(method, images, steps, lr=0.003)
    return found


@torch.no_grad()
def scores(method: Method[Any, Any], images: Tensor) -> dict[str, float]:
    view = method.eval().view(images, torch.arange(len(images)), seeded(99))
    return {name: float(value) for name, value in method(view).metrics.items()}


def world(count: int, side: int) -> Tensor:
    """Slopes that say where they are: red grows with x^2, green with y^2, blue with x."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    colors = torch.stack([x.square(), y.square(), x])
    noise = torch.randn(count, 3, side, side, generator=seeded(1)) * 0.002
    return ((colors + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def test_places_cannot_be_told_in_noise() -> None:
    """New noise after training on noise: within three sigma of 1/8. Anything more is a label that
    leaks.
    """
    noise = torch.randint(0, 256, (1000, 3, 32, 32), dtype=torch.uint8, generator=seeded(0))
    method = context_prediction(noise[:400], steps=80)
    found = scores(method, noise[400:])["accuracy"]
    assert abs(found - 1 / 8) < 3 * math.sqrt(1 / 8 * 7 / 8 / (600 * 4))


def test_places_are_told_where_the_pattern_says_them() -> None:
    images = world(300, 32)
    method = context_prediction(images[:200], steps=70, color_guard="none")
    found = scores(method, images[200:])
    assert found["accuracy"] > 0.95
    assert found["both_orders"] >= found["accuracy"] - 0.02
    assert found["swap_consistency"] > 0.9


def test_color_fringes_are_a_shortcut_that_dropping_closes() -> None:
    """Gray noise whose green channel is a little larger: a lens's fringes tell the place, and
    nothing else does.
    """
    gray = torch.rand(700, 1, 48, 48, generator=seeded(0))
    smooth = F.avg_pool2d(F.pad(gray, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    smooth = (smooth - 0.5) * 4 + 0.5
    larger = F.interpolate(smooth, (54, 54), mode="bilinear")[..., 3:51, 3:51]
    images = (torch.cat([smooth, larger, smooth], dim=1).clamp(0, 1) * 255).to(torch.uint8)
    options = {"sampler": "center", "downsample": 0.0}
    leaking = scores(
        context_prediction(images[:500], 300, color_guard="none", **options), images[500:]
    )
    closed = scores(
        context_prediction(images[:500], 300, color_guard="drop", **options), images[500:]
    )
    assert leaking["accuracy"] > 0.3
    assert closed["accuracy"] < 0.2


def test_a_context_encoder_learns_to_paint_better_than_the_mean_color() -> None:
    """Smooth colors: what is missing follows from what is there."""
    coarse = torch.rand(200, 3, 3, 3, generator=seeded(0))
    images = (F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    scaled = images / 255
    info = DataInfo(
        200, 32, False, *(tuple(f(dim=(0, 2, 3)).tolist()) for f in (scaled.mean, scaled.std))
    )
    torch.manual_seed(0)
    options = ContextEncoderOptions(mask="center", decoder_width=64, crop_min=1.0).with_defaults(
        info
    )
    method = ContextEncoder(options, build_encoder("resnet10_w32"), info)
    found = scores(trained(method, images[:150], steps=70, lr=0.003), images[150:])
    assert found["l2"] < 0.5 * found["l2_mean_color"]
    assert found["psnr"] > found["psnr_mean_color"] + 3
