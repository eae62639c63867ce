"""Options and presets of colorization."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from ssltool.errors import DataError
from ssltool.methods.options import AUTO, Auto, DataInfo, MethodOptions, Presets

ColorHead = Literal["fcn", "deep", "fc"]
GrayRule = Literal["any", "p99"]
NO_COLOR = (
    "colorization learns from color; name color images with --data, or type "
    "'ssltool pretrain jigsaw'"
)


class ColorizationOptions(MethodOptions):
    """Options of ``ssltool pretrain colorization``."""

    loss: Literal["classification", "euclidean"] = Field(
        "classification",
        description="Distribution over colors, or one color by least squares (for comparison)",
    )
    bin_step: int = Field(
        10,
        ge=5,
        le=30,
        description="Spacing of the bins in units of a and b; 10 gives the paper's 313",
    )
    neighbors: int = Field(
        10,
        ge=1,
        le=32,
        description="Nearest bins that share a color; the paper says 5, its code has 10",
    )
    sigma: Auto[float] = Field(
        AUTO,
        gt=0,
        le=30,
        description="Width of the Gaussian that weighs these bins; automatic: half of --bin-step",
    )
    encoding: Literal["exact", "dense", "table"] = Field(
        "table",
        description="Soft targets: looked up at a twentieth of a step, exact, or dense (over all "
        "bins)",
    )
    rebalance: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Lambda of the weights 1/((1-lambda) p + lambda/Q): 1 = all colors have the "
        "same weight, less = rare ones have more (classification only)",
    )
    rebalance_ramp: int = Field(
        200,
        ge=0,
        description="Steps over which lambda falls from 1 to --rebalance; 0 = no ramp",
    )
    head: ColorHead = Field(
        "fcn",
        description="fcn: one 3x3 layer; deep: the paper's conv8, which doubles the map; fc: its "
        "AlexNet's fc6 and fc7",
    )
    target_stride: Auto[int] = Field(
        AUTO,
        ge=1,
        le=32,
        description="Stride in px of the target map; automatic: 4 from 64 px on, else 2",
    )
    last_stride: Literal[1, 2] = Field(
        2,
        description="1: a ResNet's last stage keeps its resolution while training; the weights "
        "fit the plain ResNet",
    )
    crop_min: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Smallest area fraction of the random resized crop; 1 = whole images",
    )
    crop_side: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Side of a square random crop as a fraction of the image's shorter side, in "
        "place of the random resized crop (the paper: 176 of 256 px)",
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip")
    gray_rule: GrayRule = Field(
        "p99",
        description="An image is gray, with weight 0, if 99 % of its pixels have a chroma below 5 "
        "(p99), or if a and b are within 5 of zero at all of them (any: the release's rule)",
    )
    temperature: float = Field(
        0.38,
        ge=0,
        le=1,
        description="Temperature of the decoded colors: 1 = mean, 0 = mode; not of the loss",
    )

    needs_color: ClassVar[bool] = True
    presets: ClassVar[Presets] = {
        "paper": {
            "backbone": "colornet",
            "image_size": 176,
            "load_size": 256,
            "crop_side": 176 / 256,
            "head": "deep",
            "gray_rule": "any",
            "rebalance_ramp": 0,
            "lr": 3e-5,
            "beta2": 0.99,
            "weight_decay": 1e-3,
            "batch_size": 40,
            "steps": 500_000,
            "schedule": "step",
            "milestones": (200 / 500, 375 / 500),  # to 1e-5 and 3e-6, section 2.2, footnote 3
            "factor": 0.1**0.5,
            "warmup": 0,
        },
        "features": {
            "backbone": "color_alexnet",
            "image_size": 180,
            "load_size": 256,
            "crop_side": 180 / 256,
            "head": "fc",
            "target_stride": 8,
            "gray_rule": "any",
            "rebalance_ramp": 0,
            "lr": 3e-5,
            "weight_decay": 1e-3,
            "batch_size": 80,
            "steps": 450_000,
            "schedule": "step",
            "milestones": (240 / 450, 300 / 450, 400 / 450),  # to 1e-5, 3e-6 and 1e-6
            "factor": 0.1**0.5,
            "warmup": 0,
        },
        "small": {"backbone": "resnet10_w32_s2", "batch_size": 32, "weight_decay": 1e-4},
    }

    def with_defaults(self, data: DataInfo) -> Self:
        """Decide sigma and the target's stride.

        Raises:
            DataError: The images are gray.
        """
        if data.gray:
            raise DataError(f"all sampled images are gray; {NO_COLOR}")
        return self.model_copy(
            update={
                "sigma": self.sigma or self.bin_step / 2,
                "target_stride": self.target_stride or (4 if data.image_size >= 64 else 2),
            }
        )
