"""Options and presets of contrastive predictive coding."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from ssltool.encoders.metadata import Norm
from ssltool.errors import UsageError
from ssltool.methods.options import AUTO, Auto, DataInfo, MethodOptions, Presets
from ssltool.ops import grids
from ssltool.ops.grids import Grid

Level = Literal["none", "v1", "light", "v2"]
Negatives = Literal["all", "other-images", "same-image", "random"]


class CpcOptions(MethodOptions):
    """Options of ``ssltool pretrain cpc``."""

    patch: Auto[int] = Field(
        AUTO,
        ge=4,
        le=512,
        description="Side P of the patches in px; automatic: a quarter of the image, 8 or more",
    )
    stride: Auto[int] = Field(
        AUTO, ge=1, le=512, description="Pixels S between patches; automatic: half a patch"
    )
    crop: Auto[int] = Field(
        AUTO,
        ge=8,
        description="Side in px of the random crop that is cut into patches; automatic: the "
        "largest that the grid fills",
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip")
    augment: Level = Field(
        "light",
        description="Augmentation of each patch: v1 = small crop and gray; light = crop, "
        "brightness, contrast, noise, color drop; v2 = the paper's, without sample pairing",
    )
    standardize: bool = Field(
        False,
        description="Give each image the same mean color and contrast first, in training and for "
        "features; for images whose light, contrast and colors do not matter",
    )
    norm: Norm = Field(
        "ln",
        description="Replaces the backbone's batch norm: ln = over channels and locations of each "
        "patch, ln2d = over channels at each location, none = a scale and offset per channel (v1); "
        "batch needs --allow-batchnorm",
    )
    allow_batchnorm: bool = Field(
        False, description="Allow batch norm although it leaks information between patches"
    )
    last_stage: str | None = Field(
        None,
        description="Stage after which the backbone ends; automatic: the deepest with a map of 2x2 "
        "or more",
    )
    directions: Auto[int] = Field(
        AUTO,
        ge=1,
        le=4,
        description="Directions of prediction, of down, up, right, left; automatic: 4, or 2 up to "
        "64 px",
    )
    offsets: Auto[int] = Field(
        AUTO,
        ge=1,
        le=64,
        description="Number of offsets, from the smallest without a shared pixel; automatic: all",
    )
    context_width: Auto[int] = Field(
        AUTO,
        ge=1,
        description="Channels inside the context network; automatic: 256, or 64 up to 64 px "
        "(paper 256)",
    )
    context_blocks: int = Field(
        5,
        ge=1,
        le=32,
        description="Blocks of the context network; each extends its receptive field by a row",
    )
    target_width: int = Field(64, ge=1, description="Dimension T of queries and targets")
    logit_scale: float = Field(0.1, gt=0, le=10, description="Factor on the dot products")
    negatives: Negatives = Field(
        "all",
        description="Candidates beside the true patch: all of the batch, or this part of them",
    )
    sampled: int = Field(
        16, ge=1, description="Patches sampled from each image with --negatives random"
    )

    presets: ClassVar[Presets] = {
        "paper": {
            "backbone": "resnet50",
            "image_size": 300,
            "crop": 260,
            "patch": 80,
            "stride": 36,
            "last_stage": "layer3",
            "augment": "v2",
            "lr": 4e-4,
            "momentum": 0.8,
            "weight_decay": 0.0,
            "clip": 0.01,
            "ema": 0.9999,
            "batch_size": 512,
            "epochs": 200,
            "schedule": "constant",
            "warmup": 0,
        },
        "v1": {
            "backbone": "resnet101",
            "image_size": 300,
            "crop": 256,
            "patch": 64,
            "stride": 32,
            "last_stage": "layer3",
            "norm": "none",
            "directions": 1,
            "augment": "v1",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "batch_size": 512,
            "epochs": 200,
            "schedule": "constant",
            "warmup": 0,
        },
        "small": {
            "backbone": "resnet10_w32",
            "channels": 1,
            "batch_size": 32,
            "standardize": True,
            "clip": 1.0,
        },
    }

    def with_defaults(self, data: DataInfo) -> Self:
        """Decide patch, stride, crop and the size of the task.

        Raises:
            UsageError: The grid does not fit the images, or is too small for a task.
        """
        patch = self.patch or max(8, 2 * round(data.image_size / 8))
        stride = self.stride or max(1, patch // 2)
        if self.crop is not None and self.crop > data.image_size:
            raise UsageError(
                f"--crop {self.crop} is larger than the {data.image_size} px images; type less"
            )
        grid = grids.fit(self.crop or data.image_size, patch, stride)
        if self.crop not in (None, grid.side):
            raise UsageError(
                f"patches of {patch} px every {stride} px do not fill a {self.crop} px square; "
                f"type --crop {grid.side}"
            )
        most = grid.count - grid.least_offset
        if self.offsets is not None and self.offsets > most:
            raise UsageError(
                f"--offsets {self.offsets}: a {grid.count}x{grid.count} grid has {most}; type "
                "that or less"
            )
        return self.model_copy(
            update={
                "patch": patch,
                "stride": stride,
                "crop": grid.side,
                "directions": self.directions or (2 if data.image_size <= 64 else 4),
                "offsets": self.offsets or most,
                "context_width": self.context_width or (64 if data.image_size <= 64 else 256),
            }
        )

    def grid(self) -> Grid:
        """The grid of patches."""
        return grids.fit(self.crop, self.patch, self.stride)
