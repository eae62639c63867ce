"""Figure of what a linear probe predicts with most certainty: test images by predicted class."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.ops import patches
from ssltool.plotting import frames
from ssltool.plotting.sheet import save_sheet
from ssltool.probing.datasets import LabeledImages

_CLASSES = 16  # rows
_PER_CLASS = 8  # images of a row
_TILE = 72  # px, about the side of a drawn image
_WIDTH = 1300  # px of the sheet: two rows side by side


class Predictions(NamedTuple):
    """What a linear probe predicts of M test images.

    Attributes:
        indices: int64 ``[M]``, the images' index in the test split.
        truth: int64 ``[M]``, their class.
        predicted: int64 ``[M]``, the class of highest probability.
        probability: float32 ``[M]``, of that class.
    """

    indices: Tensor
    truth: Tensor
    predicted: Tensor
    probability: Tensor

    def most_certain(self, label: int, count: int) -> Tensor:
        """Positions int64 ``[n]`` of the images predicted as a class with the highest probability,
        at most ``count``, highest first.
        """
        positions = (self.predicted == label).nonzero().flatten()
        order = self.probability[positions].argsort(descending=True, stable=True)
        return positions[order[:count]]

    def correct(self) -> Tensor:
        """Whether each prediction is correct, bool ``[M]``."""
        return self.predicted == self.truth


def draw_predictions(
    predictions: Predictions, data: LabeledImages, size: int, path: Path, title: str
) -> Path:
    """Draw the test images of each predicted class that have the highest probability.

    Frames are green around correct predictions and vermilion around others. No image is chosen by
    whether its prediction is correct; the title gives the accuracy on all images beside the one
    shown. Of more than 16 classes, evenly spaced ones are drawn.

    Args:
        predictions: Of a probe.
        data: The images.
        size: Side in pixels at which they are read.
        path: PNG to write.
        title: What was probed.
    """
    labels = torch.linspace(0, len(data.classes) - 1, min(_CLASSES, len(data.classes)))
    rows = {int(label): predictions.most_certain(int(label), _PER_CLASS) for label in labels}
    rows = {label: positions for label, positions in rows.items() if len(positions)}
    correct = predictions.correct()
    shown = torch.cat(list(rows.values()))
    images = _images(data, predictions.indices[shown].tolist(), size)
    blank = torch.full((3, size, size), 255, dtype=torch.uint8)  # for one that vanished meanwhile
    strips = [
        _strip([images.get(i, blank) for i in predictions.indices[row].tolist()], correct[row])
        for row in rows.values()
    ]
    hits = f"{int(correct[shown].sum())} of {len(shown)}"
    heading = (
        f"{title}: test images with the highest probability of each predicted class. {hits} shown "
        f"are correct (green frame), of all {100 * float(correct.double().mean()):.1f} %"
    )
    captions = [f"predicted {data.classes[label]}" for label in rows]
    return save_sheet(
        {"most certain first": torch.stack(strips)}, path, captions, heading, width=_WIDTH
    )


def _images(data: LabeledImages, indices: list[int], size: int) -> dict[int, Tensor]:
    """Test images uint8 ``[3, S, S]`` by their index."""
    images: dict[int, Tensor] = {}
    for batch, read in data.batches("test", size, indices=sorted(set(indices))):
        images.update(zip(read.tolist(), batch.cpu(), strict=True))
    return images


def _strip(images: list[Tensor], correct: Tensor) -> Tensor:
    """Framed images side by side, a white place for each that is missing."""
    stack = torch.stack(images)[None]
    stack = frames.enlarged(stack, max(1, round(_TILE / stack.shape[-1])))
    stack = frames.border(stack, torch.where(correct[:, None], frames.GREEN, frames.RED), width=3)
    missing = stack.new_full((1, _PER_CLASS - len(images), *stack.shape[2:]), 255)
    return patches.assemble(torch.cat([stack, missing], dim=1), _PER_CLASS, gap=4, fill=255)[0]
