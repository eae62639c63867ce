"""Options and presets of context prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from ssltool.errors import UsageError
from ssltool.methods.context_prediction.geometry import (
    SMALLEST_PATCH,
    Geometry,
    geometry,
    geometry_of,
    largest_patch,
)
from ssltool.methods.options import AUTO, Auto, DataInfo, MethodOptions, Presets

Sampler = Literal["grid", "pair", "all8", "center"]


class ContextPredictionOptions(MethodOptions):
    """Options of ``ssltool pretrain context-prediction``."""

    sampler: Sampler = Field(
        "grid",
        description="How patches are sampled: grid = all neighbors in a grid of 3x3 or more at a "
        "random position; pair = one pair anywhere; all8, center = a patch and all its neighbors "
        "(center leaks the position)",
    )
    geometry: Auto[Literal["paper", "fit3"]] = Field(
        AUTO,
        description="Patch size: the paper's 96 px in 548, or the largest of which three fit; "
        "automatic: paper from 64 px images, else fit3",
    )
    patch: Auto[int] = Field(
        AUTO, ge=SMALLEST_PATCH, description="Side of a patch in px; automatic: by --geometry"
    )
    gap: Auto[int] = Field(
        AUTO, ge=0, description="Pixels between neighbors; automatic: half a patch"
    )
    jitter: Auto[int] = Field(
        AUTO,
        ge=0,
        description="Largest shift of each patch along each axis in px; automatic: 7/96 of a patch",
    )
    patch_input: Auto[int] = Field(
        AUTO,
        ge=SMALLEST_PATCH,
        le=512,
        description="Side in px to which patches are resized; automatic: 64, or the patch itself "
        "up to 64 px images",
    )
    color_guard: Literal["drop", "project", "none"] = Field(
        "drop",
        description="Against chromatic aberration: drop = keep one random channel of each patch, "
        "noise in the others; project = remove the green-magenta axis (color images only)",
    )
    downsample: float = Field(
        0.33,
        ge=0,
        le=1,
        description="Probability of downsampling and upsampling a patch (patches from 24 px)",
    )
    grayscale: float = Field(
        0.0, ge=0, le=1, description="Probability of converting an image to gray"
    )
    crop_min: float = Field(
        0.33,
        gt=0,
        le=1,
        description="Smallest area fraction of the random resized crop before cutting: the paper's "
        "random resizing to 150,000 to 450,000 pixels; 1 = never",
    )
    pixels_min: int | None = Field(
        None,
        ge=1024,
        description="Smallest number of pixels to which a whole image is resized, its aspect ratio "
        "kept, before patches of --patch px are cut, in place of the crop (the paper: 150,000)",
    )
    pixels_max: int | None = Field(
        None, ge=1024, description="Largest number of pixels (the paper: 450,000)"
    )
    patches: int = Field(
        24,
        ge=8,
        description="With --pixels-min: patches per image and step, of as many grids as they fill",
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Probability of a horizontal flip before cutting"
    )
    pairs: int | None = Field(
        None,
        ge=1,
        description="Pairs per image and step; automatic: 1 for pair, all for grid, or three per "
        "patch with --pixels-min",
    )
    fc6: int = Field(
        512, ge=1, description="Width of the layer on each patch's vector (paper 4096)"
    )
    fc7: int = Field(
        512, ge=1, description="Width of the two layers on the concatenated vectors (paper 4096)"
    )
    spatial_features: bool = Field(
        False,
        description="Feed fc6 the flattened last map instead of its average, as in the paper",
    )

    of_color: ClassVar[Mapping[str, Any]] = {"grayscale": 0.0}
    presets: ClassVar[Presets] = {
        "paper": {
            "backbone": "contextnet",
            "image_size": 548,
            "load_size": 672,  # 450,000 pixels
            "pixels_min": 150_000,
            "pixels_max": 450_000,
            "patch_input": 96,
            "fc6": 4096,
            "fc7": 4096,
            "spatial_features": True,
            "optimizer": "sgd",
            "lr": 0.023,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "batch_size": 21,  # of 24 patches: the released code's 512
            "steps": 1_000_000,
            "schedule": "constant",
            "warmup": 0,
        },
        "r50": {
            "backbone": "resnet50",
            "image_size": 255,
            "sampler": "center",
            "patch": 64,
            "gap": 21,
            "jitter": 10,
            "color_guard": "none",
            "downsample": 0.0,
            "grayscale": 0.66,
            "fc6": 1000,
            "fc7": 4096,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 35,
            "warmup": 5,
            "schedule": "step",
            "milestones": (15 / 35, 25 / 35),
        },
        "small": {
            "backbone": "resnet10_w32",
            "channels": 1,
            "batch_size": 64,
            "flip": 0.5,
            "pairs": 8,
        },
    }

    def without_color(self) -> tuple[Self, tuple[str, ...]]:
        """As in the base class; channels are dropped in place of the projection."""
        own, on = super().without_color()
        if own.color_guard != "project":
            return own, on
        return own.model_copy(update={"color_guard": "drop"}), (*on, "color_guard project")

    def with_defaults(self, data: DataInfo) -> Self:
        """Decide the geometry.

        Raises:
            UsageError: The patches do not fit into the images, or ``pairs`` is no multiple of 8.
        """
        side = data.image_size
        rule = self.geometry or ("paper" if side >= 64 else "fit3")
        patch = self.patch or geometry(side, rule).patch
        scaled = geometry_of(patch)
        gap = scaled.gap if self.gap is None else self.gap
        jitter = scaled.jitter if self.jitter is None else self.jitter
        sizes = Geometry(patch, gap, jitter)
        least = 3 if self.sampler in ("all8", "center") else 2
        if sizes.span(least) > side:
            raise UsageError(
                f"{least} patches of {patch} px with gaps of {gap} px and jitter {jitter} px "
                f"need {sizes.span(least)} "
                f"px but the images have {side}; type --patch {largest_patch(side, least)}, or a "
                "larger --image-size"
            )
        if (self.pixels_min is None) != (self.pixels_max is None):
            raise UsageError("--pixels-min and --pixels-max go together; type both or neither")
        if self.pixels_min and self.pixels_max and self.pixels_min > self.pixels_max:
            raise UsageError(
                f"--pixels-min {self.pixels_min} is more than --pixels-max {self.pixels_max}; "
                "exchange them"
            )
        if self.pixels_min and self.sampler != "grid":
            raise UsageError("--pixels-min: only with --sampler grid; drop one of them")
        return self.model_copy(
            update={
                "geometry": rule,
                "patch": patch,
                "gap": gap,
                "jitter": jitter,
                "patch_input": self.patch_input or (patch if side <= 64 else 64),
            }
        )
