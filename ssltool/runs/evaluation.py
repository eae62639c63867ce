"""A run's method with its head, and images to evaluate it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.errors import DataError, UsageError
from ssltool.methods.auditing import batches
from ssltool.methods.base import Method, Reference
from ssltool.runs.folder import Run


@dataclass(frozen=True)
class Evaluation:
    """A method in evaluation mode and images for it, on one device.

    Attributes:
        run: The run.
        method: With the weights of the newest checkpoint; chance levels are those of the batches
            that the images are scored in.
        source: Where the images come from.
        images: uint8 ``[N, 3, S, S]``, evenly spaced over the source.
        index: int64 ``[N]``; images unseen in training are numbered after those seen.
    """

    run: Run
    method: Method[Any, Any]
    source: Source
    images: Tensor
    index: Tensor

    @classmethod
    def open(
        cls,
        weights: Path,
        source: Source | None,
        count: int,
        device: torch.device,
        method: str | None = None,
    ) -> Evaluation:
        """Open a run and read images.

        Args:
            weights: Run folder, or the weights file in it.
            source: The images; the run's own if None.
            count: Largest number of images.
            device: Where to compute.
            method: The method expected, to catch a mistaken folder.

        Raises:
            UsageError: There is no such run, it is of another method, or the weights are not its
                newest.
            CheckpointError: The run has no checkpoint yet, or it is damaged.
        """
        run = Run.open_newest(weights)
        if method not in (None, run.config.method):
            raise UsageError(
                f"{weights} is a run of {run.config.method}, not of {method}; type "
                f"{run.config.method} in its place"
            )
        source = run.reading(source or run.open_images("name images with --data"))
        parts = sample(source, run.config.data.image_size, count)
        images, index = (part.to(device) for part in parts)
        if not run.trained_on(source):
            index = index + run.config.data.count
        loaded = run.load_method(batch_size=len(images) // batches(images)).to(device)
        if loaded.reference_count:
            loaded.reference = _reference(run, loaded.reference_count, Reference(images, index))
        return cls(run, loaded, source, images, index)

    @property
    def title(self) -> str:
        """The method and the images, in words."""
        return f"{self.run.config.method} on {self.data}"

    @property
    def data(self) -> str:
        """The images, in words."""
        count, total = len(self.images), len(self.source)
        return ("" if count == total else f"{count} of ") + self.source.description


def _reference(run: Run, count: int, evaluated: Reference) -> Reference:
    """A sample of the run's images, or those evaluated where the run's are gone."""
    try:
        source = run.open_images("name images with --data")
        images, index = sample(source, run.config.data.image_size, count)
    except (UsageError, DataError):
        return evaluated
    device = evaluated.images.device
    return Reference(images.to(device), index.to(device))
