"""Command groups with one subcommand per installed method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup

from ssltool.errors import UnknownNameError
from ssltool.methods.registry import available


class MethodGroup(TyperGroup):
    """A group whose subcommands are the installed methods; only the one typed is imported."""

    build: Callable[[str], TyperCommand]

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the installed methods."""
        return list(available())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of one method, not built before its flags are needed."""
        known = available()
        if cmd_name not in known:
            raise UnknownNameError("method", cmd_name, known, hint="'ssltool methods' lists them")
        return _LazyCommand(cmd_name, known[cmd_name].summary, lambda: type(self).build(cmd_name))


class _LazyCommand(TyperCommand):
    """Stands in a help listing for a command that is expensive to build."""

    def __init__(self, name: str, summary: str, build: Callable[[], TyperCommand]) -> None:
        super().__init__(name, help=summary)
        self._build = build

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return self._build().make_context(info_name, args, parent=parent, **extra)
