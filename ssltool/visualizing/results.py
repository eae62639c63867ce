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
