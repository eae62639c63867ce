"""Input transforms: uint8 RGB images to the resized, normalized input of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.encoders.metadata import ColorSpace, EncoderMetadata, Standardize
from ssltool.errors import UsageError
from ssltool.ops import patches
from ssltool.ops.lab import lightness, rgb_to_lab

_LEVEL = 1 / 255  # one gray level


class InputTransform:
    """Converts uint8 RGB images to the input that an encoder was trained on.

    Resizes (bilinear, antialiased), converts the color space and normalizes each channel.

    Args:
        size: Side in pixels of the output.
        mean: Per channel of the output, subtracted (0..1 scale).
        std: Per channel of the output, divided by.
        color_space: ``rgb``; ``lightness``, L / 100; ``lab``, L, a and b / 100; or ``channels``,
            of files that were read as they are.
        standardize: ``data`` applies ``mean`` and ``std``; ``channels`` and ``image`` give each
            image zero mean and unit deviation in their place, as a task did with its tiles or
            patches: each channel by its own deviation, or all by one.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        color_space: ColorSpace = "rgb",
        standardize: Standardize = "data",
    ) -> None:
        self.size = size
        self.color_space = color_space
        self.standardize = standardize
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)

    @classmethod
    def of(cls, metadata: EncoderMetadata, size: int | None = None) -> InputTransform:
        """The transform that a weights file asks for, at another size in pixels if given."""
        return cls(
            size or metadata.image_size,
            metadata.mean,
            metadata.std,
            metadata.color_space,
            metadata.standardize,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Transform a batch of images.

        Args:
            images: uint8 ``[B, 3, S, S]``, RGB, 0..255; of ``channels``, uint8 ``[B, N, S, S]``.

        Returns:
            float32 ``[B, C, size, size]``, channels last in memory. One channel of ``rgb`` is the
            mean of R, G and B.

        Raises:
            UsageError: The images are of another type or shape, such as floats in 0..1, which
                would be divided by 255 once more.
        """
        _check(images, self._mean.shape[1] if self.color_space == "channels" else 3)
        x = resize(images, self.size)
        if self.color_space == "lightness":
            x = lightness(x) / 100
        elif self.color_space == "lab":
            x = rgb_to_lab(x) / 100
        elif self.color_space == "rgb" and self._mean.shape[1] == 1:
            x = x.mean(dim=1, keepdim=True)
        if self.standardize == "data":
            x = (x - self._mean.to(x.device)) / self._std.to(x.device)
        else:
            x = patches.standardize(x, level=_LEVEL, jointly=self.standardize == "image")
        return x.contiguous(memory_format=torch.channels_last)


def _check(images: Tensor, channels: int) -> None:
    shape = list(images.shape)
    kind = "RGB, 0..255" if channels == 3 else "0..255"
    expected = f"expected uint8 [B, {channels}, S, S], {kind}"
    if images.dtype != torch.uint8:
        dtype = str(images.dtype).removeprefix("torch.")
        raise UsageError(
            f"images are {dtype} {shape}; {expected}: convert floats in 0..1 with "
            "(images * 255).round().to(torch.uint8)"
        )
    if images.dim() != 4 or shape[1] != channels:
        raise UsageError(f"images are uint8 {shape}; {expected}")
    if shape[2] != shape[3]:
        raise UsageError(
            f"images are {shape[2]} x {shape[3]} px; {expected}: crop or resize them to squares"
        )


def resize(images: Tensor, side: int) -> Tensor:
    """Resize uint8 images ``[B, C, S, S]`` to float32 ``[B, C, side, side]`` in 0..1."""
    x = images.float() / 255
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)
