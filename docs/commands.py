"""The command reference, from the commands themselves: every command with every flag.

It replaces ``<!-- commands -->`` of a page while the site is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from ssltool.cli import app as ssltool

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = "<!-- commands -->"


def reference() -> str:
    """All commands as Markdown, from headings of the second level on."""
    return "\n".join(_group(typer.main.get_command(ssltool), "ssltool", level=2))


def subcommands(group: Any, path: str) -> dict[str, Any]:
    """The commands of a group by name, built as if they were typed."""
    context = group.make_context(path, [], resilient_parsing=True)
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found[name] = command.make_context(name, [], parent=context, resilient_parsing=True).command
    return found


def _group(group: Any, path: str, level: int) -> Iterator[str]:
    commands = subcommands(group, path)
    rows = [set(getattr(command, "rows", ())) for command in commands.values()]
    shared = set.intersection(*rows) if len(rows) > 1 else set()
    if shared:
        first = next(iter(commands.values()))
        yield "Options of each:\n"
        yield from _tables([row for row in first.rows if row in shared])
    for name, command in commands.items():
        yield f"{'#' * level} `{path} {name}`\n"
        if hasattr(command, "list_commands"):
            yield f"{command.help}\n"
            yield from _group(command, f"{path} {name}", level + 1)
        else:
            yield from _command(command, shared)


def _command(command: Any, shared: set[Any]) -> Iterator[str]:
    yield f"{command.help}\n"
    if command.examples:
        yield "```console\n" + "\n".join(f"$ {line}" for line in command.examples) + "\n```\n"
    yield from _tables([row for row in command.rows if row not in shared])


def _tables(rows: Sequence[Any]) -> Iterator[str]:
    if not rows:
        return
    panels = dict.fromkeys(row.panel for row in rows)
    yield "| option | value | default | meaning |\n|---|---|---|---|"
    for panel in panels:
        if len(panels) > 1:
            yield f"| **{panel}** | | | |"
        for row in rows:
            if row.panel == panel:
                names = ", ".join(f"`{name}`" for name in row.names.split("/"))
                yield f"| {names} | {_cell(row.value)} | {_cell(row.default)} | " + (
                    f"{_cell(row.description)} |"
                )
    yield ""


def _cell(text: str) -> str:
    for character in "\\|<*_`":
        text = text.replace(character, f"\\{character}")
    return text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""

    def insert(app: Sphinx, page: str, source: list[str]) -> None:
        if MARK in source[0]:
            source[0] = source[0].replace(MARK, reference())

    app.connect("source-read", insert)
    return {"parallel_read_safe": True}
