"""Rotation prediction: classify by which quarter turn an image was rotated.

S. Gidaris, P. Singh, N. Komodakis, "Unsupervised Representation Learning by Predicting Image
Rotations", ICLR 2018. Quarter turns only move pixels: no resampling, no borders, no shortcut.

Letters: B images of side S, R = 4 turns of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool import DataInfo, Loss, Method, Metric
from ssltool.encoders.encoder import Encoder
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool_rotation import figures
from ssltool_rotation.options import RotationOptions

TURNS = 4


class RotationView(NamedTuple):
    """Images uint8 ``[B, R, 3, S, S]`` and their counter-clockwise turns, int64 ``[B, R]``."""

    images: Tensor
    turns: Tensor


class Rotation(Method[RotationOptions, RotationView]):
    """Rotates images, and classifies the rotation with a linear layer."""

    Options = RotationOptions
    figures = figures

    def __init__(self, options: RotationOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.flip = options.flip
        self.register_buffer("mean", torch.tensor(data.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(data.std).view(3, 1, 1).clamp_min(1 / 255))
        self.head = nn.Linear(encoder.width, TURNS)
        nn.init.normal_(self.head.weight, std=0.01)  # the first loss is ln 4, the chance level

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Chance levels: loss ln 4, accuracy 1/4."""
        return Metric("loss", "", math.log(TURNS)), Metric("accuracy", "fraction", 1 / TURNS)

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> RotationView:
        """Flip, and rotate by all four turns in random order; see `Method.view`."""
        rng = PerImageRNG(index, generator)
        turns = rng.permutation(TURNS)
        if self.training:
            flipped = rng.bernoulli(self.flip)
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        rotated = torch.stack([images.rot90(turn, dims=(-2, -1)) for turn in range(TURNS)], dim=1)
        rows = torch.arange(len(images), device=images.device)[:, None]
        return RotationView(rotated[rows, turns], turns)

    def forward(self, view: RotationView) -> Loss:
        """4-way cross-entropy over all rotated images."""
        logits, target = self.logits(view.images.flatten(0, 1)), view.turns.flatten()
        accuracy = (logits.argmax(dim=1) == target).float().mean()
        return Loss(F.cross_entropy(logits, target), {"accuracy": accuracy})

    def logits(self, images: Tensor) -> Tensor:
        """Logits over the turns, float32 ``[B, 4]``, of uint8 ``[B, 3, S, S]``."""
        x = (images.float() / 255 - self.mean) / self.std
        if self.encoder.in_channels == 1:
            x = x.mean(dim=1, keepdim=True)
        logits: Tensor = self.head(self.encoder(x))
        return logits.float()
