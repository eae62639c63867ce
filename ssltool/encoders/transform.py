"""What the probes read: features of frozen encoders, pixels to compare them with, and batch-norm
statistics.

Shapes: N images, B per batch, S image side, D width of the pooled vector, C_s width of a stage.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.encoders.metadata import ColorSpace, EncoderMetadata
from ssltool.ops.lab import lightness, rgb_to_lab


class InputTransform:
    """Turns uint8 images into what the encoder was trained on.

    Args:
        size: Side in pixels to which images are resized (bilinear, antialiased).
        mean: Per channel of the encoder's input, subtracted (0..1 scale).
        std: Per channel, divided by.
        color_space: ``rgb``; ``lightness``, L / 100; or ``lab``, L, a and b / 100.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        color_space: ColorSpace = "rgb",
    ) -> None:
        self.size = size
        self.color_space = color_space
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)

    @classmethod
    def of(cls, metadata: EncoderMetadata, size: int | None = None) -> InputTransform:
        """The reader that a weights file asks for, at another side if given."""
        return cls(size or metadata.image_size, metadata.mean, metadata.std, metadata.color_space)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` -> float32 ``[B, C, size, size]``; of rgb, one channel is the mean
        of R, G and B.
        """
        x = resize(images, self.size)
        if self.color_space == "lightness":
            x = lightness(x) / 100
        elif self.color_space == "lab":
            x = rgb_to_lab(x) / 100
        elif self._mean.shape[1] == 1:
            x = x.mean(dim=1, keepdim=True)
        x = (x - self._mean.to(x.device)) / self._std.to(x.device)
        return x.contiguous(memory_format=torch.channels_last)


def resize(images: Tensor, side: int) -> Tensor:
    """Images uint8 ``[B, C, S, S]`` as float32 0..1 of the given side."""
    x = images.float() / 255
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)
