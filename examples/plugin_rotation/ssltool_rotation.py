"""Rotation prediction: name by which quarter turn an image was rotated.

S. Gidaris, P. Singh, N. Komodakis, "Unsupervised Representation Learning by Predicting Image
Rotations", ICLR 2018.

An image is shown turned by 0, 90, 180 and 270 degrees, and the network names the turn, 4 ways.
Whoever knows which way up things stand can do it. Quarter turns only move pixels: no resampling, no
borders, nothing else gives them away.

Letters: B images of side S, R turns of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.methods.base import DataInfo, Loss, Method, MethodOptions, Predictions
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting import frames

TURNS = 4


class RotationOptions(MethodOptions):
    """Options of ``ssltool pretrain rotation``."""

    flip: float = Field(
        0.5, ge=0, le=1, description="Probability that an image is mirrored before it is turned"
    )


def quarter_turns(images: Tensor) -> Tensor:
    """All rotations of square images ``[B, C, S, S]``, counter-clockwise: ``[B, 4, C, S, S]``."""
    return torch.stack([images.rot90(turn, dims=(-2, -1)) for turn in range(TURNS)], dim=1)


class RotationView(NamedTuple):
    """A batch of turned images.

    Attributes:
        images: uint8 ``[B, R, 3, S, S]``.
        turns: int64 ``[B, R]`` in 0..3, quarter turns counter-clockwise, the target.
    """

    images: Tensor
    turns: Tensor


class Rotation(Method[RotationOptions, RotationView]):
    """The turned images and a linear layer that names the turn."""

    Options = RotationOptions
    presets = {
        "paper": {
            "backbone": "alexnet",
            "image_size": 224,
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 5e-4,
            "batch_size": 192,
            "epochs": 30,
            "schedule": "step",
            "warmup": 0,
        }
    }

    def __init__(self, options: RotationOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        self.flip = options.flip
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(info.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(info.std).view(3, 1, 1).clamp_min(1 / 255))
        self.head = nn.Linear(encoder.width, TURNS)
        nn.init.normal_(
            self.head.weight, std=0.01
        )  # small: the first loss is ln 4, the loss of knowing nothing

    @classmethod
    def network_size(cls, options: RotationOptions, info: DataInfo) -> int:
        """The side of the images."""
        return info.image_size

    @property
    def chance(self) -> dict[str, float]:
        """The loss ln 4 and accuracy 1/4."""
        return {"loss": math.log(TURNS), "accuracy": 1 / TURNS}

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> RotationView:
        """Mirror, and turn by all four angles in random order (R = 4); see `Method.view`."""
        rng = PerImageRNG(index, generator)
        turns = rng.order(TURNS)
        if self.training:
            mirrored = rng.bernoulli(self.flip)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        rows = torch.arange(len(images), device=images.device)[:, None]
        return RotationView(quarter_turns(images)[rows, turns], turns)

    def forward(self, view: RotationView) -> Loss:
        """4-way cross-entropy over all turned images."""
        logits, target = self.logits(view.images.flatten(0, 1)), view.turns.flatten()
        accuracy = (logits.argmax(dim=1) == target).float().mean()
        return Loss(F.cross_entropy(logits, target), {"accuracy": accuracy})

    def logits(self, images: Tensor) -> Tensor:
        """Scores of the turns, float32 ``[B, 4]``, for uint8 ``[B, 3, S, S]``."""
        x = (images.float() / 255 - self.mean) / self.std
        if self.encoder.in_channels == 1:
            x = x.mean(dim=1, keepdim=True)
        scores: Tensor = self.head(self.encoder(x))
        return scores.float()

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The image in all four turns, in the order drawn for it."""
        view = self.view(images, index, generator)
        return {
            "image": images,
            "turned": patches.assemble(view.images, columns=TURNS, gap=2, fill=255),
        }

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """One turn of each image, and that turned back by the answer, framed by whether it is
        right.
        """
        view = self.view(images, index, generator)
        shown, target = view.images[:, 0], view.turns[:, 0]
        confidence, guess = self.logits(shown).softmax(dim=1).max(dim=1)
        back = quarter_turns(shown)[torch.arange(len(shown), device=shown.device), -guess % TURNS]
        colors = torch.where(
            (guess == target)[:, None], frames.GREEN.to(guess.device), frames.RED.to(guess.device)
        )
        framed = frames.border(back[:, None], colors[:, None], width=max(1, shown.shape[-1] // 32))[
            :, 0
        ]
        rows = zip(target.tolist(), guess.tolist(), confidence.tolist(), strict=True)
        captions = [
            f"turned by {90 * t}°, answer {90 * g}°, {sure:.0%} sure" for t, g, sure in rows
        ]
        return Predictions({"as shown": shown, "turned back": framed}, captions)
