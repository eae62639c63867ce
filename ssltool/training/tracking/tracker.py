"""The contract of a tracker: what it is told of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker begins or continues it.

    Attributes:
        folder: The run folder.
        options: Every resolved option, by name.
        chance: Metric -> chance level.
        start: Steps taken before, by the run that is resumed.
        id: Of the run in the tracker's store, made by us; the same after a resume.
        tracked: The last step that the tracker was told of; -1 for a new run.
    """

    folder: Path
    options: Mapping[str, object]
    chance: Mapping[str, float]
    start: int
    id: str
    tracked: int

    @property
    def name(self) -> str:
        """What people call the run."""
        return self.folder.name


class Tracker(Protocol):
    """Writes the metrics and figures of a run into a store of its own. Any method may fail."""

    def line(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the metrics of a step."""

    def figure(self, name: str, path: Path, step: int) -> None:
        """Add an image that was drawn into the run folder."""

    def close(self, *, finished: bool) -> None:
        """Write what is left; the run took its last step, or stopped before."""
