"""Layers that compute in float32 under autocast, for logits: `Linear`, `Conv2d`, `ConvTranspose2d`.

A bfloat16 logit has eight bits: near 16 neighbors lie 1/8 apart, so the largest of many classes is
often one of several equals, and the loss of a certain prediction is off by percents. The last layer
of a network is small beside the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear`` in the precision of its weights, at least float32, whatever autocast says."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., D]`` of any float dtype to ``[..., K]``, float32 (float64 if given that)."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(_full(input))


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` likewise."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` of any float dtype to float32 (float64 if that was given)."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(_full(input))


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` likewise."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map ``[B, C, H, W]`` of any float dtype to float32 (float64 if that was given)."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(_full(input), output_size)


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
