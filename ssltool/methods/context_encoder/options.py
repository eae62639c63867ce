"""Options and presets of context encoders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from ssltool.errors import UsageError
from ssltool.methods.options import AUTO, Auto, DataInfo, MethodOptions, Presets

DecoderKind = Literal["resize", "tconv"]


def overlap_of(side: int) -> int:
    """Width in pixels of the visible band round the central hole that is predicted too: 7 at 128
    px.
    """
    return math.floor(7 * side / 128 + 0.5)


class ContextEncoderOptions(MethodOptions):
    """Options of ``ssltool pretrain context-encoder``."""

    mask: Literal["center", "blocks", "region"] = Field(
        "region",
        description="What is removed: the central half, random rectangles, or random shapes",
    )
    region_shapes: Auto[Literal["noise", "blobs", "files"]] = Field(
        AUTO,
        description="Shapes of --mask region: noise = the released code's pattern, blobs = "
        "object-like outlines, files = your own; automatic: noise, or files with --mask-files",
    )
    mask_files: Path | None = Field(
        None, description="Folder of mask images, white on black, for --mask region"
    )
    coverage_min: float = Field(
        0.2, gt=0, lt=1, description="Smallest fraction of the image that noise removes"
    )
    coverage_max: float = Field(
        0.3, gt=0, lt=1, description="Largest fraction of the image that noise removes"
    )
    overlap: Auto[int] = Field(
        AUTO,
        ge=0,
        description="Visible band in px around a central hole that is predicted too; automatic: 7 "
        "at 128 px",
    )
    reconstruction: Literal["l2", "l1"] = Field(
        "l2", description="Reconstruction error; the paper found no difference"
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Weight of the adversarial loss, the rest is the reconstruction's; 0 = no "
        "discriminator",
    )
    discriminator_lr_scale: float = Field(
        0.1, gt=0, description="Learning rate of the discriminator as a multiple of --lr"
    )
    channelwise: bool | None = Field(
        None,
        description="Channel-wise fully connected layer before the decoder; automatic: for "
        "convolutional backbones with a last map of 3x3 to 16x16",
    )
    decoder: DecoderKind = Field(
        "resize",
        description="Upsampling of the decoder: resize and convolve, or the paper's transposed "
        "convolutions",
    )
    decoder_width: int = Field(
        512,
        ge=32,
        description="Channels of the decoder's first step at most; each step halves them",
    )
    standardize: bool = Field(
        False,
        description="Give each image the same mean color and contrast first, in training and for "
        "features; for images whose light, contrast and colors do not matter",
    )
    crop_min: float = Field(
        0.5, gt=0, le=1, description="Smallest area fraction of the random resized crop"
    )
    crop_side: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Side of a square random crop as a fraction of the image's shorter side, in "
        "place of the random resized crop (the released code: 128 of 350 px)",
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip")

    presets: ClassVar[Presets] = {
        "paper": {
            "backbone": "caffenet",
            "image_size": 227,
            "load_size": 256,
            "crop_side": 227 / 256,  # the paper does not say; as AlexNet was trained
            "decoder": "tconv",
            "optimizer": "adamw",  # Adam; rate and batch are not stated
            "lr": 1e-3,
            "weight_decay": 0.0,
            "batch_size": 128,
            "steps": 100_000,
            "schedule": "constant",
            "warmup": 0,
        },
        "inpainting": {
            "backbone": "inpaintnet",
            "image_size": 128,
            "load_size": 350,
            "crop_side": 128 / 350,
            "mask": "center",
            "adversarial": 0.001,
            "decoder": "tconv",
            "optimizer": "adamw",
            "momentum": 0.5,
            "lr": 2e-3,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 500,
            "schedule": "constant",
            "warmup": 0,
        },
        "small": {
            "backbone": "resnet10_w32_s2",
            "channels": 1,
            "batch_size": 64,
            "standardize": True,
            "decoder_width": 128,
            "clip": 1.0,
        },
    }

    def with_defaults(self, data: DataInfo) -> Self:
        """Decide shapes and band.

        Raises:
            UsageError: Options that contradict each other, or a band that fills the hole.
        """
        shapes = self.region_shapes or ("files" if self.mask_files else "noise")
        if (shapes == "files") != (self.mask_files is not None):
            raise UsageError(
                "--region-shapes files and --mask-files DIR go together; type both or neither"
            )
        if self.coverage_min > self.coverage_max:
            raise UsageError(
                f"--coverage-min {self.coverage_min} is more than --coverage-max "
                f"{self.coverage_max}; exchange them"
            )
        overlap = overlap_of(data.image_size) if self.overlap is None else self.overlap
        if self.mask == "center" and data.image_size // 2 - 2 * overlap < 2:
            raise UsageError(
                f"--overlap {overlap} leaves nothing of the {data.image_size // 2} px hole; "
                f"type --overlap {data.image_size // 8} or less"
            )
        return self.model_copy(update={"region_shapes": shapes, "overlap": overlap})
