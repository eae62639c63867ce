"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssltool.options import Options, option

if TYPE_CHECKING:
    from rich.console import Console


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and the result")]


class JsonOption(Options):
    """The option of commands that print a result."""

    as_json: bool = option(
        False, "Print one JSON document on stdout", panel="Output", flag="--json"
    )


class OutputOptions(JsonOption):
    """The options of commands that also report progress."""

    quiet: bool = option(False, "Print only errors and the result", panel="Output")


def stderr_console(quiet: bool = False) -> Console:
    """A console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; NaN and infinity, which JSON lacks, are refused."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
