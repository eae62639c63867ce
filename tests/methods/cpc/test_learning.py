"""The task is learned where it can be, and only there: noise tells whether a grid leaks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ssltool.methods.cpc.context_network import Predictor
from ssltool.methods.cpc.options import CpcOptions
from ssltool.methods.cpc.task import Cpc
from ssltool.methods.options import DataInfo

pytestmark = pytest.mark.slow
SIDE, PICTURES = 20, 32


def build(offset: int) -> Cpc:
    """One direction and one offset of a 4x4 grid of 8 px patches every 4 px; offset 1 shares half
    of the pixels.
    """
    info = DataInfo(PICTURES, SIDE)
    options = CpcOptions(
        directions=1, augment="none", context_width=32, context_blocks=3
    ).with_defaults(info)
    torch.manual_seed(0)
    encoder = Cpc.inputs(options, info).build_encoder("resnet20", stem="small", in_channels=3)
    method = Cpc(options, encoder, info)
    method.predictors = nn.ModuleDict({"down": Predictor(encoder.width, 32, 32, 3, (offset,))})
    return method


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (PICTURES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def accuracy_on_noise(offset: int, steps: int = 120) -> tuple[float, int]:
    """Share of true patches found in noise never seen, after training on noise, and the number of
    contexts asked.
    """
    method = build(offset).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    index, generator = torch.arange(PICTURES), torch.Generator()
    for step in range(steps):
        loss = method(method.view(noise(step), index, generator.manual_seed(step))).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.eval()
    with torch.no_grad():
        views = [method.view(noise(10_000 + i), index, generator) for i in range(8)]
        found = [float(method(view).metrics["accuracy"]) for view in views]
    return sum(found) / len(found), len(found) * PICTURES * (4 - offset) * 4


def test_noise_cannot_be_predicted_at_the_least_legal_offset() -> None:
    accuracy, contexts = accuracy_on_noise(offset=2)
    chance = 1 / (PICTURES * 16)
    assert accuracy < chance + 4 * math.sqrt(chance / contexts)


def test_noise_is_predicted_where_patches_share_pixels() -> None:
    """What the guard is for: one row closer the same network finds the true patch by its pixels."""
    accuracy, _ = accuracy_on_noise(offset=1)
    assert accuracy > 10 / (PICTURES * 16)
