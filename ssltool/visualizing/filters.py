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
from ssltool.visualizing.loading import load_pretrained
from ssltool.visualizing.results import FigureResult


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
    size = f"{width} x {height} of {channels} channel{'s' * (channels != 1)}"
    title = f"{pretrained.title}: {count} first kernels, {size}; gray is 0"
    path = save_figure(kernels_figure(kernels, title), path)
    return FiltersFigure(path=path, kernels=count)


def kernels_figure(kernels: NDArray[np.float64], title: str) -> Figure:
    """Draw kernels as small images: mid-gray is a weight of 0, black or white the largest of each.

    Args:
        kernels: ``[C_out, C_in, k, k]``; of 3 channels in color, of others their mean in gray.
        title: Drawn on top.
    """
    count = len(kernels)
    columns = min(16, count)
    rows = -(-count // columns)
    size = (max(5.0, 0.62 * columns + 0.3), 0.66 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10)
    shown = kernels if kernels.shape[1] == 3 else kernels.mean(axis=1, keepdims=True)
    largest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    images = (0.5 + 0.5 * shown / np.maximum(largest, 1e-12)).transpose(0, 2, 3, 1)
    for i, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.set_axis_off()
        if i < count:
            image = images[i] if images.shape[-1] == 3 else images[i, ..., 0]
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure
