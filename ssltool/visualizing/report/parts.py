"""Parts of the report: figures, charts and tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

from ssltool.plotting.records import Plot

Cell = str | int | float | None


class Frame(NamedTuple):
    """A PNG figure of a run.

    Attributes:
        title: Shown and read aloud.
        data: The file.
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
        columns: Names of the columns.
        rows: Cells; numbers are aligned and sorted as numbers, None is an empty cell.
        best: Index of the row that is highlighted, or None.
        note: A line below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    best: int | None = None
    note: str = ""


def format_cell(value: Cell) -> str:
    """Text of a cell: numbers with four digits, thousands apart."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
