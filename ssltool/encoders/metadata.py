"""Encoder metadata: what a weights file says of the network, its input and its training."""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssltool.documents import DocumentError, parse_json, validated
from ssltool.errors import WeightsError
from ssltool.options import LARGEST_CHANNELS, LARGEST_SEED, LARGEST_SIDE, SMALLEST_SIDE

FORMAT: Final = 2
Stem = Literal["imagenet", "small"]
Norm = Literal["batch", "ln", "ln2d", "none"]
Standardize = Literal["data", "channels", "image"]
ColorSpace = Literal["rgb", "lightness", "lab", "channels"]

LARGEST_GRID = 64
"""Patches along a side: each of them is encoded by itself."""
_LARGEST_COUNT = 2**62
_SHOWN = 6
_Side = Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
_Name = Annotated[str, Field(max_length=200)]
_Mean = Annotated[float, Field(ge=-1, le=2)]  # of Lab / 100 too
_Deviation = Annotated[float, Field(ge=1e-4, le=100)]

IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel, on a 0..1 scale."""
LIGHTNESS_NORM = ((0.5,), (0.5,))
"""Mean and standard deviation of lightness as L / 100: (L - 50) / 50."""


class Stage(NamedTuple):
    """A named point in the encoder at which a feature map is read.

    Attributes:
        name: Name of the stage, such as ``layer3``.
        width: Channels of the map.
        stride: Input pixels per position of the map.
    """

    name: str
    width: int
    stride: int


class TrainingSummary(BaseModel):
    """How weights were trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ssltool: _Name = Field(description="version of ssltool")
    steps: int = Field(ge=0, le=_LARGEST_COUNT, description="optimizer steps")
    batch_size: int = Field(
        ge=0, le=_LARGEST_COUNT, description="images per step, of all processes together"
    )
    images: int = Field(ge=1, le=_LARGEST_COUNT, description="images in the training set")
    read_size: _Side = Field(description="side in pixels at which the images were decoded")
    optimizer: _Name = Field(description="name of the optimizer")
    lr: float = Field(ge=0, description="peak learning rate")
    seed: int = Field(ge=0, le=LARGEST_SEED, description="random seed")
    precision: _Name = Field(description="fp32, bf16 or fp16")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average over the steps that the weights are; 0: they are "
        "those of the last step",
    )
    knn: float | None = Field(
        None,
        ge=0,
        le=1,
        description="online kNN accuracy for which the weights were kept as the best of their run, "
        "0..1; null: they were not chosen",
    )


class InitialWeights(BaseModel):
    """What a run took from the file of ``--init``.

    Attributes:
        loaded: Number of tensors.
        prefix: What stands before the encoder's keys in the file.
        left_out: What was not loaded, with its number of tensors.
        converted: Tensors of another shape, and how they were changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loaded: int
    prefix: str
    left_out: tuple[str, ...]
    converted: tuple[str, ...]

    def line(self) -> str:
        """All of it in one line."""
        before = f" after the prefix {self.prefix}" if self.prefix else ""
        parts = [f"{self.loaded} tensors{before}"]
        if self.converted:
            parts.append(f"converted {', '.join(self.converted)}")
        if self.left_out:
            more = len(self.left_out) - _SHOWN
            some = ", ".join(self.left_out[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
            parts.append(f"left out {some}")
        return "; ".join(parts)


class EncoderMetadata(BaseModel):
    """What a weights file says of itself.

    It holds only what an equal run would give again: no dates, no host names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[2] = FORMAT
    method: _Name = Field(description="pretext task that trained the weights")
    backbone: _Name = Field(description="name of the backbone")
    timm: _Name | None = Field(
        None, description="version of timm that built the backbone; null for other backbones"
    )
    stem: Stem = Field(
        description="imagenet: the backbone's own; small: 3x3, stride 1, without max-pool"
    )
    norm: Norm = Field(
        "batch", description="what replaces batch norm; batch: the backbone as published"
    )
    in_channels: int = Field(ge=1, le=LARGEST_CHANNELS, description="input channels")
    color_space: ColorSpace = Field(
        description="what the channels are; lightness is L / 100, lab is Lab / 100, channels are "
        "those of files that are read as they are"
    )
    converted_from: ColorSpace | None = Field(
        None, description="color space of training, if the first convolution was converted since"
    )
    image_size: _Side = Field(description="side in pixels of images for feature extraction")
    patch: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="side and stride in pixels of the patches the encoder was trained on; null if "
        "it was trained on whole images",
    )
    value_range: tuple[tuple[float, float], ...] | None = Field(
        None,
        description="of color space channels: values of each channel that became 0 and 255; null "
        "for other color spaces",
    )
    value_type: _Name | None = Field(
        None, description="type of these values in the files, such as uint16; null likewise"
    )
    mean: tuple[_Mean, ...] = Field(description="per channel, on a 0..1 scale, subtracted")
    std: tuple[_Deviation, ...] = Field(description="per channel, divided by")
    standardize: Standardize = Field(
        "data",
        description="what mean and std are applied to: data, as they are here; channels, the own "
        "mean and deviation of each channel of each image in their place; image, the same with "
        "one deviation for all channels of an image",
    )
    stages: tuple[Stage, ...] = Field(
        min_length=1,
        max_length=100,
        description="name, channels and stride in pixels of each stage",
    )
    width: int = Field(ge=1, description="dimensions of the pooled feature")
    training: TrainingSummary | None = Field(
        None, description="how the weights were trained; null if that is not known"
    )

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"mean and std need {self.in_channels} values, one per input channel")
        return self

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        if self.color_space != "channels":
            if self.in_channels not in (1, 3):
                raise ValueError(f"{self.color_space} has 1 or 3 channels, not {self.in_channels}")
            if self.value_range is not None:
                raise ValueError(f"value_range is not of {self.color_space}")
        elif self.value_range is None or len(self.value_range) != self.in_channels:
            raise ValueError(f"value_range needs {self.in_channels} pairs, one per input channel")
        elif not all(low < high for low, high in self.value_range) or self.value_type is None:
            raise ValueError("value_range needs ascending pairs and a value_type")
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        if self.patch is not None:
            side, stride = self.patch
            if side > self.read_size:
                raise ValueError(f"patch {side} px is larger than images of {self.read_size} px")
            grid = (self.read_size - side) // stride + 1
            if grid > LARGEST_GRID:
                raise ValueError(
                    f"{grid}x{grid} patches are more than {LARGEST_GRID}x{LARGEST_GRID}"
                )
        return self

    @property
    def function(self) -> dict[str, object]:
        """All that decides, beside the weights, which features an image file has: the architecture,
        and how files are read and become its input.
        """
        fields = self.model_dump(mode="json", exclude={"method", "training"})
        return fields | {"read_size": self.read_size}

    @property
    def read_size(self) -> int:
        """Side in pixels at which images are decoded: that of training, else ``image_size``.

        The two differ where a task enlarges parts of the images.
        """
        return self.training.read_size if self.training else self.image_size

    def to_json(self) -> str:
        """JSON with sorted keys, so that equal metadata give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, file: object) -> Self:
        """Parse the metadata of a weights file; the format number is checked first.

        Args:
            text: JSON.
            file: Where it was read, for messages.

        Raises:
            WeightsError: It is malformed, has a wrong field or is of another format.
        """
        try:
            fields = parse_json(text)
        except DocumentError as error:
            raise WeightsError(
                f"{file} has unreadable metadata ({error}); use another copy of the file"
            ) from error
        number = fields.get("format") if isinstance(fields, dict) else None
        if isinstance(number, int) and number > FORMAT:
            raise WeightsError(
                f"{file} has format {number} and this ssltool reads format {FORMAT}; type "
                "pip install --upgrade ssltool"
            )
        if isinstance(fields, dict) and number != FORMAT:
            raise WeightsError(
                f"{file} was written by an older ssltool (no format {FORMAT} in its metadata); "
                "export it again from its run"
            )
        try:
            return validated(cls, fields)
        except DocumentError as error:
            raise WeightsError(
                f"{file} has wrong metadata, {error}; use another copy of the file"
            ) from error
