"""Which images a drawing is of, and under which names it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssltool.data.sources.base import Source
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.registry import open_source
from ssltool.encoders.weights import find_weights
from ssltool.errors import UsageError
from ssltool.runs.folder import Run

_CHARTS = (".png", ".svg", ".pdf")


def sources_of(
    weights: Path, data: Sequence[str], image: Sequence[Path] = (), *, optional: bool = False
) -> tuple[Source, Source | None]:
    """The images to draw and, when they are named one by one, those to see them among.

    Args:
        weights: Run folder or weights file.
        data: What was typed after ``--data``; the run's own images if empty.
        image: What was typed after ``--image``.
        optional: Whether the second may be missing, for weights that belong to no run here.

    Raises:
        UsageError: The weights belong to no run, and no data was named.
    """
    around: Source | None
    if data:
        around = open_source(tuple(data))
    else:
        try:
            around = open_source(Run.open(weights).config.run.data)
        except UsageError as error:
            if not optional:
                find_weights(weights)  # if there are none, that is the error
                raise UsageError(f"{error}; name images with --data") from error
            around = None
    if image:
        return FileSource(image), around
    assert around is not None, "only optional beside --image"
    return around, None


def png(path: Path) -> Path:
    """Where the sheet of images goes that belongs to charts at ``path``: sheets are PNG, charts may
    be SVG or PDF.

    Raises:
        UsageError: No such format is written.
    """
    if path.suffix not in _CHARTS:
        raise UsageError(f"--to {path}: images are written as .png, charts also as .svg or .pdf")
    return path.with_suffix(".png")
