"""Figure of what a linear probe predicts with most certainty: test images by predicted class."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.plotting.sheet import Column, Mark, Sheet, right_wrong
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.probing.datasets import LabeledImages

_CLASSES = 12  # rows
_PER_CLASS = 8  # images of a row
_RIGHT, _WRONG = right_wrong("right class", "wrong class")


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

    Frames are green around right predictions, and vermilion and dashed around wrong ones. No image
    is chosen by whether its prediction is right; the note gives the accuracy on all images beside
    the one shown. Of more than 12 classes, evenly spaced ones are drawn.

    Args:
        predictions: Of a probe.
        data: The images.
        size: Side in pixels at which they are read.
        path: PNG, SVG or PDF to write.
        title: What was probed.
    """
    labels = torch.linspace(0, len(data.classes) - 1, min(_CLASSES, len(data.classes)))
    rows = {int(label): predictions.most_certain(int(label), _PER_CLASS) for label in labels}
    rows = {label: positions for label, positions in rows.items() if len(positions)}
    correct = predictions.correct()
    shown = torch.cat(list(rows.values()))
    images = _images(data, predictions.indices[shown].tolist(), size)
    blank = torch.full((3, size, size), 255, dtype=torch.uint8)  # for one that vanished meanwhile

    def column(rank: int) -> Column:
        places = [int(row[rank]) if rank < len(row) else None for row in rows.values()]
        return Column(
            [None if i is None else images.get(int(predictions.indices[i]), blank) for i in places],
            [[] if i is None else [Mark(_RIGHT if correct[i] else _WRONG)] for i in places],
        )

    note = (
        f"{int(correct[shown].sum())} of {len(shown)} shown are right, of all {len(correct):,} "
        f"test images {100 * float(correct.double().mean()):.1f}%. Most certain first."
    )
    captions = [f"predicted: {data.classes[label]}" for label in rows]
    heading = f"{title}: most certain predictions of a linear probe"
    columns = {" " * rank: column(rank) for rank in range(_PER_CLASS)}
    return save_sheet(Sheet(columns, heading, captions, note), path)


def _images(data: LabeledImages, indices: list[int], size: int) -> dict[int, Tensor]:
    """Test images uint8 ``[3, S, S]`` by their index."""
    images: dict[int, Tensor] = {}
    for batch, read in data.batches("test", size, indices=sorted(set(indices))):
        images.update(zip(read.tolist(), batch.cpu(), strict=True))
    return images
