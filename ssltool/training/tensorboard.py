"""TensorBoard event files of a run's metrics and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ssltool.atomic import translated_os_errors
from ssltool.errors import UsageError

TENSORBOARD = "tensorboard"  # folder in the run folder


def require_tensorboard() -> None:
    """Raise a UsageError if the package is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs tensorboard; type pip install 'ssltool[tensorboard]'"
        ) from error


class TensorBoard:
    """Writes the events of one run. Each method raises a CheckpointError if that fails.

    Args:
        folder: Where they go.
        start: Step the run resumes from; what a killed run wrote after it is hidden.
        chance: Metric -> chance level, written as a scalar of its own.
    """

    def __init__(self, folder: Path, start: int, chance: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with translated_os_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)
        self._chance = dict(chance)

    def line(self, line: Mapping[str, float]) -> None:
        """Add the metrics of one line of ``metrics.jsonl``."""
        step = int(line["step"])
        with translated_os_errors(self._folder):
            for name, value in line.items():
                if name != "step":
                    self._writer.add_scalar(name, value, step)
                if name in self._chance:
                    self._writer.add_scalar(f"{name}/chance", self._chance[name], step)
            self._writer.flush()

    def figure(self, name: str, path: Path, step: int) -> None:
        """Add an image that was drawn into the run folder."""
        with translated_os_errors(self._folder), Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        with translated_os_errors(self._folder):
            self._writer.close()
