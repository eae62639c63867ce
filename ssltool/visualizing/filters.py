"""Figure of the kernels of an encoder's first convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from ssltool.errors import UsageError
from ssltool.plotting.figures import save_figure
from ssltool.plotting.style import COLUMN, POINT, new_figure, styled
from ssltool.visualizing.loading import load_pretrained
from ssltool.visualizing.results import FigureResult

_COLUMNS = 12
_GAP = 3.0  # points between kernels


class FiltersFigure(FigureResult):
    """What `draw_filters` drew.

    Attributes:
        kernels: Number of kernels.
    """

    kernels: int


def draw_filters(weights: Path, path: Path) -> FiltersFigure:
    """Draw the kernels of an encoder's first convolution.

    Args:
        weights: Run folder or weights file.
        path: File to write, PNG, SVG or PDF by its suffix.

    Raises:
        UsageError: The encoder has no convolution.
    """
    pretrained = load_pretrained(weights, torch.device("cpu"))
    convolutions = (m for m in pretrained.encoder.modules() if isinstance(m, nn.Conv2d))
    first = next(convolutions, None)
    if first is None:
        raise UsageError(f"{pretrained.encoder.name} has no convolution to draw")
    kernels = first.weight.detach().double().numpy()
    count, channels, height, width = kernels.shape
    size = f"{width} \u00d7 {height} px, {channels} channel{'s' * (channels != 1)}"
    title = (
        f"{pretrained.title}: all {count} kernels of the first convolution, {size}; mid-gray is 0, "
        "each scaled by its largest weight"
    )
    path = save_figure(kernels_figure(kernels, title), path)
    return FiltersFigure(path=path, kernels=count)


@styled
def kernels_figure(kernels: NDArray[np.float64], title: str) -> Figure:
    """Draw kernels as small images: mid-gray is a weight of 0, black or white the largest of each.

    Args:
        kernels: ``[C_out, C_in, k, k]``; of 3 channels in color, of others their mean in gray.
        title: Drawn on top.
    """
    columns = min(_COLUMNS, len(kernels))
    rows = -(-len(kernels) // columns)
    images = kernel_images(kernels)
    room = (COLUMN / POINT - _GAP) / _COLUMNS  # points
    figure = new_figure(title, (rows * room + _GAP) * POINT)
    figure.set_layout_engine("none")
    whole, wide = figure.get_figheight() / POINT, COLUMN / POINT
    left = (wide - columns * room + _GAP) / 2
    for i, image in enumerate(images):
        x, y = left + i % columns * room, (rows - i // columns) * room + _GAP - room
        tile = room - _GAP
        axis = figure.add_axes((x / wide, y / whole, tile / wide, tile / whole))
        axis.set_axis_off()
        shown = image if image.shape[-1] == 3 else image[..., 0]
        axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure


def kernel_images(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernels ``[C_out, C_in, k, k]`` as images ``[C_out, k, k, 3 or 1]`` in 0..1, 0.5 for 0."""
    shown = kernels if kernels.shape[1] == 3 else kernels.mean(axis=1, keepdims=True)
    largest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    images: NDArray[np.float64] = 0.5 + 0.5 * shown / np.maximum(largest, 1e-12)
    return images.transpose(0, 2, 3, 1)
