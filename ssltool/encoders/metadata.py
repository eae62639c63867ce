"""What an encoder is, in words that can be written into its weights file: stages, stem, colors,
training.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stem = Literal["imagenet", "small"]
Norm = Literal["batch", "ln", "ln2d"]
ColorSpace = Literal["rgb", "lightness", "lab"]
# Mean and deviation for lightness on a 0..1 scale, L / 100: (L - 50) / 50.
LIGHTNESS_NORM = ((0.5,), (0.5,))


class Stage(NamedTuple):
    """A named place in the encoder: channels of its map, and input pixels per step of the map."""

    name: str
    width: int
    stride: int


class EncoderMetadata(BaseModel):
    """What a weights file says about itself. Only facts that the same run would give again: no
    dates, no host.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = 1
    method: str = Field(description="pretext task that trained the weights")
    backbone: str = Field(description="name of the backbone")
    stem: Stem = Field(
        description="imagenet: the backbone's own; small: 3x3 stride-1 without max-pool"
    )
    norm: Norm = Field(
        "batch", description="what stands in place of batch norm; batch: the backbone as published"
    )
    in_channels: Literal[1, 3] = Field(description="input channels")
    color_space: ColorSpace = Field(
        description="what the channels are; lightness is L / 100, lab is Lab / 100"
    )
    image_size: int = Field(ge=1, description="side in pixels at which features should be read")
    patch: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="side and stride in pixels of the patches the encoder was trained on, if it "
        "saw no more",
    )
    mean: tuple[float, ...] = Field(
        description="per channel, on a 0..1 scale, subtracted from the input"
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        description="per channel, divides what is left"
    )
    stages: tuple[Stage, ...] = Field(
        description="name, channels and stride in pixels of each stage"
    )
    width: int = Field(ge=1, description="length of the pooled feature")
    training: dict[str, str | int | float] = Field(
        default={}, description="summary: steps, images, versions"
    )

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> EncoderMetadata:
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"mean and std need {self.in_channels} values, one per input channel")
        return self
