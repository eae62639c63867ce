"""The puzzle is learned where it can be, and only where it should be: the sanity checks of the
specification.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssltool.encoders.registry import build_encoder
from ssltool.methods.jigsaw.options import JigsawOptions
from ssltool.methods.jigsaw.task import Jigsaw
from ssltool.methods.options import DataInfo

pytestmark = pytest.mark.slow


def trained(images: Tensor, steps: int, lr: float = 0.05, **options: Any) -> Jigsaw:
    size = images.shape[-1]
    info = DataInfo(len(images), size)
    torch.manual_seed(0)
    chosen = JigsawOptions(
        grid=2, fc6=64, fc7=128, dropout=0.0, permutations_per_image=4, **options
    ).with_defaults(info)
    method = Jigsaw(chosen, build_encoder("resnet20", stem="small"), info).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=lr, momentum=0.9)
    for step in range(steps):
        index = torch.randperm(len(images))[:64]
        loss = method(method.view(images[index], index, torch.Generator().manual_seed(step))).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method


@torch.no_grad()
def accuracy(method: Jigsaw, images: Tensor, training_view: bool = False) -> float:
    index = torch.arange(len(images))
    view = method.train(training_view).view(images, index, torch.Generator().manual_seed(99))
    return float(method.eval()(view).metrics["accuracy"])


def test_noise_cannot_be_solved() -> None:
    """New noise after training on noise: within three sigma of 1/24. Anything more is a label that
    leaks.
    """
    noise = torch.randint(
        0, 256, (1500, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    method = trained(noise[:500], steps=120)
    assert abs(accuracy(method, noise[500:]) - 1 / 24) < 3 * math.sqrt(1 / 24 * 23 / 24 / 1000)


@pytest.mark.ci
def test_fixed_patterns_are_solved() -> None:
    """A distinct pattern in each cell: the wiring from tiles to the order is right."""
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randint(0, 256, (1, 3, 24, 24), generator=generator)
    images = (
        (pattern + torch.randint(-20, 20, (256, 3, 24, 24), generator=generator))
        .clamp(0, 255)
        .to(torch.uint8)
    )
    assert accuracy(trained(images, steps=120), images) > 0.99


def test_brightness_ramps_are_a_shortcut_that_standardisation_closes() -> None:
    """Noise that gets brighter from the top left: told by its mean brightness without
    standardization only.
    """
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    ramp = 40 + 4 * y + 2 * x
    spread = torch.randint(0, 40, (700, 3, 24, 24), generator=generator)
    images = (ramp + spread).clamp(0, 255).to(torch.uint8)
    coarse = {"grayscale": 0.0, "gap": True}
    leaking = accuracy(trained(images[:400], 120, standardize=False, **coarse), images[400:])
    closed = accuracy(trained(images[:400], 120, standardize=True, **coarse), images[400:])
    assert leaking > 0.9
    assert closed < 0.5 * leaking


def test_a_few_images_can_be_learned_by_heart() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(64, 3, 6, 6, generator=generator)
    images = (
        torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255
    ).to(torch.uint8)
    assert accuracy(trained(images, steps=400), images) == 1.0
