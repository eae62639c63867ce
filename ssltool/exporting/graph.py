"""The network that ONNX files and torch.export archives hold: input, pooled feature, stage maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.ops.lab import lightness, rgb_to_lab

INPUT, POOLED = "images", "pooled"
_LEVEL = 1 / 255  # one gray level


class Graph(nn.Module):
    """An encoder, with its input transform if images are uint8, that returns all its outputs.

    Args:
        encoder: On the CPU, in evaluation mode, with its metadata.
        uint8: Whether resizing, color conversion and normalization are inside.

    Attributes:
        outputs: Names of what `forward` returns: the pooled feature and the stages.
        side: Side in pixels of its input; None where any does.
        uint8: Whether it takes uint8 images.
    """

    def __init__(self, encoder: Encoder, *, uint8: bool) -> None:
        super().__init__()
        metadata = encoder.metadata
        self.encoder = encoder
        self.transform = _Transform(metadata) if uint8 else nn.Identity()
        self.outputs = (POOLED, *(stage.name for stage in encoder.stages))
        resizes = uint8 and metadata.read_size != metadata.image_size
        sized = encoder.position_size is not None or encoder.name.startswith("swin_")
        fixed = resizes or sized
        self.side = (metadata.read_size if uint8 else metadata.image_size) if fixed else None
        self.uint8 = uint8

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pooled feature ``[B, D]`` and maps ``[B, C_s, h_s, w_s]``.

        Args:
            images: float ``[B, C, H, W]``, the encoder's input, or uint8 ``[B, 3, H, W]``, RGB;
                of files read as they are, uint8 ``[B, C, H, W]``.
        """
        x = self.transform(images)
        return self.encoder(x), *self.encoder.maps(x).values()

    def example(self) -> Tensor:
        """Two images of the kind that `forward` takes."""
        metadata = self.encoder.metadata
        if self.uint8:
            side = self.side or metadata.read_size
            channels = metadata.in_channels if metadata.color_space == "channels" else 3
            return torch.zeros(2, channels, side, side, dtype=torch.uint8)
        side = self.side or metadata.image_size
        return torch.zeros(2, metadata.in_channels, side, side)

    def dynamic_shapes(self) -> tuple[dict[int, Any]]:
        """The axes of the input that may have any length, for `torch.export`."""
        axes = (0,) if self.side else (0, 2, 3)
        return (dict.fromkeys(axes, Dim.DYNAMIC),)


class _Transform(nn.Module):
    """`InputTransform` without branches on shapes and values."""

    def __init__(self, metadata: EncoderMetadata) -> None:
        super().__init__()
        self._metadata = metadata
        self._size = metadata.image_size if metadata.read_size != metadata.image_size else None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(metadata.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(metadata.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 RGB images ``[B, 3, H, W]`` to the encoder's input."""
        x = images.float() / 255
        if self._size:
            x = F.interpolate(x, (self._size, self._size), mode="bilinear", antialias=True)
        if self._metadata.color_space == "lightness":
            x = lightness(x) / 100
        elif self._metadata.color_space == "lab":
            x = rgb_to_lab(x) / 100
        elif self._metadata.color_space == "rgb" and self._metadata.in_channels == 1:
            x = x.mean(dim=1, keepdim=True)
        if self._metadata.standardize == "data":
            return (x - self.mean) / self.std
        return _standardized(x, jointly=self._metadata.standardize == "image")


def _standardized(x: Tensor, *, jointly: bool) -> Tensor:
    """As `ssltool.ops.patches.standardize`; a constant image becomes zero."""
    x = x - x.mean(dim=(2, 3), keepdim=True)
    variance = x.square().mean(dim=(2, 3), keepdim=True)
    if jointly:
        variance = variance.mean(dim=1, keepdim=True)
    return x / variance.sqrt().clamp_min(_LEVEL)
