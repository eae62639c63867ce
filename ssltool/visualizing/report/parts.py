"""Parts of the report: figures, charts, tables, scores, and what is missing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

from PIL import Image

from ssltool.plotting.records import Plot

_THUMBNAIL = (560, 420)  # px, twice what is shown

Place = Literal["run", "curves", "probe", "predictions", "task", "audit"]


class Link(NamedTuple):
    """A cell that leads to another part of the page."""

    text: str
    anchor: str


Cell = str | int | float | Link | None


class Missing(NamedTuple):
    """What a run folder lacks.

    Attributes:
        place: Where the page says so.
        what: A sentence without its full stop.
        command: What to type to make it; empty if no command does.
    """

    place: Place
    what: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.what}; type {self.command}" if self.command else self.what


class Frame(NamedTuple):
    """A figure of a run.

    Attributes:
        title: Its caption.
        data: The file, a PNG.
    """

    title: str
    data: bytes

    @property
    def source(self) -> str:
        """The figure as a ``data:`` URL."""
        return f"data:image/png;base64,{base64.b64encode(self.data).decode('ascii')}"


class Chart(NamedTuple):
    """A plot with its heading."""

    title: str
    plot: Plot


class Table(NamedTuple):
    """A table that can be sorted by its columns.

    Attributes:
        title: What it shows.
        columns: Names of the columns, each another.
        rows: Cells; numbers are aligned and sorted as numbers, None is an empty cell.
        best: Index of the row that is highlighted, or None.
        note: A line below it.
        folded: Whether it is opened by a click.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    best: int | None = None
    note: str = ""
    folded: bool = False

    def is_numeric(self, column: int) -> bool:
        """Whether a column has numbers alone, which are aligned right."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


class ScoreBar(NamedTuple):
    """An accuracy beside others.

    Attributes:
        label: Where the features come from.
        stage: Of the encoder; empty for features of no encoder.
        percent: 0..100, the length of the bar.
        error: Standard error in percentage points, half the width of the error bar.
        text: Accuracy and errors in figures.
        baseline: Whether it is one, which is drawn in gray.
    """

    label: str
    stage: str
    percent: float
    error: float
    text: str
    baseline: bool


class Headline(NamedTuple):
    """The first result of one or more probes, beside its baselines.

    Attributes:
        title: What was measured, on what.
        bars: Pretrained encoders first.
        note: What the marks mean.
    """

    title: str
    bars: Sequence[ScoreBar]
    note: str


def thumbnail(frame: Frame) -> Frame:
    """The top of a figure, small."""
    width, height = _THUMBNAIL
    with Image.open(io.BytesIO(frame.data)) as image:
        rows = min(image.height, max(1, round(image.width * height / width)))
        top = image.convert("RGB").crop((0, 0, image.width, rows))
    top.thumbnail((width, height))
    file = io.BytesIO()
    top.save(file, "PNG")
    return Frame(frame.title, file.getvalue())


def format_cell(value: Cell) -> str:
    """Text of a cell: numbers with four digits, thousands apart."""
    if isinstance(value, Link):
        return value.text
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
