"""Text for terminals as it is: no markup, one line each, escapes for what cannot be shown.

Paths, class names and typed values are user text. On their way to stdout and stderr they pass
through here, so that ``[old] photos`` and ``:cat:`` are printed as they are written, a control
character does not move the cursor, and a console of another encoding (cp1252, ASCII) shows escapes.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console
from rich.text import Text


def printable(text: str) -> str:
    r"""The text on one line, every character visible.

    Control and format characters (a line break, ESC, a right-to-left override), undecodable bytes
    and unusual spaces become escapes such as ``\n``, ``\x1b``, ``\u202e`` and ``\udcff``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def echo(line: object, *, err: bool = False) -> None:
    """Print one line on stdout or stderr."""
    print(printable(str(line)), file=sys.stderr if err else sys.stdout)


class PlainConsole(Console):
    """A console that prints strings as they are; styles are arguments or `rich.text.Text`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text without markup, emoji codes or highlighting, unprintable characters escaped."""
        lines = map(printable, text.split("\n"))
        plain = {"markup": False, "emoji": False, "highlight": False}
        return super().render_str("\n".join(lines), **{**options, **plain})


def stderr_console(quiet: bool = False) -> Console:
    """A console for progress and remarks; long lines are left to the terminal."""
    return PlainConsole(stderr=True, quiet=quiet, soft_wrap=True)


def escape_unencodable() -> None:
    """Let stdout and stderr show escapes for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
