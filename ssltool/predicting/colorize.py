"""Coloring of images of any size by a colorization network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.data.resizing import stretched
from ssltool.errors import UsageError
from ssltool.methods.colorization.recolor import with_colors
from ssltool.methods.colorization.task import Colorization


class Colorizer:
    """Gives images predicted colors and keeps their lightness (Zhang et al. 2016).

    The network reads the whole image stretched to its square; its map of colors is upsampled to the
    image's own size.

    Args:
        method: In evaluation mode.
        temperature: Of the annealed mean; None for that of the run.

    Raises:
        UsageError: A temperature for a network that predicts one color and no distribution.
    """

    notes: tuple[str, ...]

    def __init__(self, method: Colorization, temperature: float | None = None) -> None:
        if temperature is not None and method.options.loss == "euclidean":
            raise UsageError(
                "--temperature: no effect on a run with --loss euclidean, which predicts one "
                "color; drop it"
            )
        self.method, self.temperature = method, temperature
        self.notes = ()

    def prepare(self, pixels: Tensor) -> Tensor:
        """What the network reads of an image uint8 ``[3, H, W]``: uint8 ``[3, S, S]``."""
        square, _ = stretched(pixels.permute(1, 2, 0).numpy(), self.method.side)
        return torch.from_numpy(square).permute(2, 0, 1)

    def predict(self, images: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Colored images uint8 ``[3, H, W]``, from the images and what `prepare` made of them."""
        device = self.method.prior.device
        ab = self.method.colorize(torch.stack(list(inputs)).to(device), self.temperature).cpu()
        return [
            with_colors(image[None], map_[None])[0] for image, map_ in zip(images, ab, strict=True)
        ]
