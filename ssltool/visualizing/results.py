"""Base of what the ``visualize`` commands return."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class FigureResult(BaseModel):
    """Files written by a command; subclasses add what was measured.

    Attributes:
        path: The figure.
        plots: Plots beside it.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    plots: tuple[Path, ...] = ()

    def summary(self) -> list[str]:
        """What was measured, one line each."""
        return []

    def _repr_png_(self) -> bytes | None:
        """The figure, for notebooks."""
        return self.path.read_bytes() if self.path.suffix == ".png" else None
