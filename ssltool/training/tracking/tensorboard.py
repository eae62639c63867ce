"""TensorBoard event files of a run's metrics and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ssltool.training.tracking.tracker import TrackedRun


class TensorBoard:
    """Writes ``RUN/tensorboard``. What a killed run wrote after the step resumed from is hidden.

    Args:
        run: The run; each chance level is a scalar of its own.
    """

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = run.start + 1 if run.start else None
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)
        self._chance = run.chance

    def line(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker.line`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
            if name in self._chance:
                self._writer.add_scalar(f"{name}/chance", self._chance[name], step)
        self._writer.flush()

    def figure(self, name: str, path: Path, step: int) -> None:
        """See `Tracker.figure`."""
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """See `Tracker.close`."""
        self._writer.close()
