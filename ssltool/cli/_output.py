"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from ssltool.console import PlainConsole, printable
from ssltool.options import Options, option

if TYPE_CHECKING:
    from ssltool.runs.tables import Table


class JsonOption(Options):
    """The option of commands that print a result."""

    as_json: bool = option(
        False, "Print one JSON document on stdout", panel="Output", flag="--json"
    )


class OutputOptions(JsonOption):
    """The options of commands that also report progress."""

    quiet: bool = option(False, "Print only errors and the result", panel="Output")


def print_json(document: Any) -> None:
    """Print a JSON document on stdout, in ASCII; NaN and infinity, not in JSON, are refused."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(table: Table) -> None:
    """Print a table on stdout; into a file in a width that holds it."""
    from rich.table import Table as RichTable
    from rich.text import Text

    def text(cell: str) -> Text:
        return Text(printable(cell), overflow="fold")  # nothing of a long name is left out

    grouped = len({cells[0] for cells in table.rows}) < len(table.rows)
    shown = RichTable(title=text(table.title), title_justify="left")
    for number, name in enumerate(table.columns):
        shown.add_column(text(name), justify="left" if number < table.text_columns else "right")
    for number, cells in enumerate(table.rows):
        following = table.rows[number + 1] if number + 1 < len(table.rows) else None
        shown.add_row(
            *map(text, cells),
            style="bold" if number == table.best else "",
            end_section=grouped and following is not None and following[0] != cells[0],
        )
    console = PlainConsole()
    console.print(shown) if console.is_terminal else PlainConsole(width=120).print(shown)
