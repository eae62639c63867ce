"""Rotation prediction: name by which quarter turn a picture was rotated.

S. Gidaris, P. Singh, N. Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018.

A picture is shown turned by 0, 90, 180 and 270 degrees, and the network names the turn, 4 ways. Whoever knows which way
up things stand can do it. Quarter turns only move pixels: no resampling, no borders, nothing else gives them away.

Letters: B pictures of side S, R turns of each, h side of the crop, D encoder width.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.errors import UsageError
from ssltool.methods.base import Answers, DataInfo, Loss, Method, MethodOptions
from ssltool.nn.encoders import Encoder
from ssltool.ops import frames, patches
from ssltool.ops.random import Draws

TURNS = 4


class RotationOptions(MethodOptions):
    """Options of ``ssltool pretrain rotation``."""

    turns: int = Field(4, ge=1, le=TURNS, description="Rotations of each picture in a batch; all four in the paper")
    crop: int | None = Field(None, ge=8, description="Side in px of the square shown; automatic: 7/8 of the picture")
    flip: float = Field(0.5, ge=0, le=1, description="Probability that a picture is mirrored before it is turned")

    def resolved(self, info: DataInfo) -> Self:
        """Decide the crop; refuse one larger than the pictures."""
        crop = self.crop or max(8, info.image_size * 7 // 8)
        if crop > info.image_size:
            raise UsageError(f"--crop {crop} does not fit {info.image_size} px pictures; type --image-size {crop}")
        return self.model_copy(update={"crop": crop})


def quarter_turns(images: Tensor) -> Tensor:
    """All rotations of square pictures ``[B, C, h, h]``, counter-clockwise: ``[B, 4, C, h, h]``."""
    return torch.stack([images.rot90(turn, dims=(2, 3)) for turn in range(TURNS)], dim=1)


class RotationView(NamedTuple):
    """A batch of turned pictures.

    Attributes:
        shown: uint8 ``[B, R, 3, h, h]``.
        target: int64 ``[B, R]`` in 0..3, quarter turns counter-clockwise, no two alike in a row.
    """

    shown: Tensor
    target: Tensor


class Rotation(Method[RotationOptions, RotationView]):
    """The turned pictures and a linear layer that names the turn."""

    Options = RotationOptions
    presets = {
        "paper": {
            "backbone": "alexnet", "image_size": 256, "crop": 224, "optimizer": "sgd", "lr": 0.01,
            "weight_decay": 5e-4, "batch_size": 192, "epochs": 30, "schedule": "step", "warmup": 0,
        }
    }  # fmt: skip

    def __init__(self, options: RotationOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        self.options = options
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(info.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(info.std).view(3, 1, 1))
        self.head = nn.Linear(encoder.width, TURNS)
        nn.init.normal_(self.head.weight, std=0.01)  # small: the first loss is ln 4, the loss of knowing nothing

    @classmethod
    def network_size(cls, options: RotationOptions) -> int:
        """The side of the crop."""
        assert options.crop, "resolved"
        return options.crop

    @property
    def chance(self) -> dict[str, float]:
        """The loss ln 4 and accuracy 1/4."""
        return {"loss": math.log(TURNS), "accuracy": 1 / TURNS}

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> RotationView:
        """Crop, mirror and turn; see `Method.view`."""
        draws, side = Draws(index, generator), self.network_size(self.options)
        target = draws.order(TURNS)[:, : self.options.turns]
        margin = images.shape[-1] - side
        if self.training:
            images = torch.where(draws.chance(self.options.flip)[:, None, None, None], images.flip(-1), images)
            corner = draws.integers(margin + 1, 1, 2)
        else:
            corner = torch.full((len(images), 1, 2), margin // 2, device=images.device)
        crops = patches.cut(images, corner[..., 0], corner[..., 1], side)[:, 0]
        pictures = torch.arange(len(images), device=images.device)[:, None]
        return RotationView(quarter_turns(crops)[pictures, target], target)

    def forward(self, view: RotationView) -> Loss:
        """4-way cross-entropy over all turned pictures."""
        logits, target = self.logits(view), view.target.flatten()
        accuracy = (logits.argmax(dim=1) == target).float().mean()
        return Loss(F.cross_entropy(logits, target), {"accuracy": accuracy})

    def logits(self, view: RotationView) -> Tensor:
        """Scores of the turns, float32 ``[B*R, 4]``."""
        x = (view.shown.flatten(0, 1).float() / 255 - self.mean) / self.std
        scores: Tensor = self.head(self.encoder(x))
        return scores.float()

    def pictures(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The picture and the crop as it is shown first."""
        return {"picture": images, "as shown": self.view(images, index, generator).shown[:, 0]}

    @torch.no_grad()
    def answers(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Answers:
        """The crop as shown, and turned back by the answer, framed by whether it is right."""
        view = self.view(images, index, generator)
        shown, target = view.shown[:, 0], view.target[:, 0]
        confidence, guess = self.logits(RotationView(shown[:, None], target[:, None])).softmax(dim=1).max(dim=1)
        undone = torch.stack(
            [picture.rot90(-int(turn), dims=(1, 2)) for picture, turn in zip(shown, guess, strict=True)]
        )
        colors = torch.where((guess == target)[:, None], frames.GREEN.to(guess.device), frames.RED.to(guess.device))
        framed = frames.border(undone[:, None], colors[:, None], width=max(1, shown.shape[-1] // 32))[:, 0]
        rows = zip(target.tolist(), guess.tolist(), confidence.tolist(), strict=True)
        captions = [f"turned by {90 * t}°, answer {90 * g}°, {sure:.0%} sure" for t, g, sure in rows]
        return Answers({"as shown": shown, "turned back": framed}, captions)
