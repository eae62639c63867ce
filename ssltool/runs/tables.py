"""Tables of strings: one form for the terminal, notebooks and the report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Table(NamedTuple):
    """A table for display.

    Attributes:
        title: Shown above.
        columns: Headings.
        rows: Cells, as many per row as there are columns.
        text_columns: Leading columns that are aligned left; the others are numbers.
        best: Index of a row to emphasize.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    best: int | None = None

    def html(self) -> str:
        """An HTML table; everything in it is escaped."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(self._html_row(index) for index in range(len(self.rows)))
        return (
            f"<table><caption>{escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _html_row(self, index: int) -> str:
        bold = ' style="font-weight: bold"' if index == self.best else ""
        cells = [
            f"<td>{escape(cell)}</td>"
            if column < self.text_columns
            else f'<td style="text-align: right">{escape(cell)}</td>'
            for column, cell in enumerate(self.rows[index])
        ]
        return f"<tr{bold}>{''.join(cells)}</tr>"
