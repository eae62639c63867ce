"""Command groups whose subcommands are imported and built only when they are typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from ssltool.errors import UnknownNameError

Command = TyperCommand | TyperGroup


class LazyGroup(TyperGroup):
    """A group that lists its subcommands by name and summary alone.

    Attributes:
        kind: What a subcommand is, for the message about an unknown one.
        summaries: Returns the name and the summary of every subcommand.
        build: Imports and builds the subcommand of a name.
        panels: Heading of the help under which a subcommand is listed, by name.
    """

    kind: ClassVar[str] = "command"
    summaries: Callable[[], Mapping[str, str]]
    build: Callable[[str], Command]
    panels: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the subcommands, in the order of the help."""
        return list(type(self).summaries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in for the subcommand, which is built when its flags are needed."""
        summaries = type(self).summaries()
        if cmd_name not in summaries:
            hint = "'ssltool methods' lists them" if self.kind == "method" else ""
            raise UnknownNameError(self.kind, cmd_name, summaries, hint=hint)
        stand_in = _StandIn(cmd_name, summaries[cmd_name], lambda: type(self).build(cmd_name))
        stand_in.rich_help_panel = type(self).panels.get(cmd_name)
        return stand_in


class _StandIn(TyperCommand):
    def __init__(self, name: str, summary: str, build: Callable[[], Command]) -> None:
        super().__init__(name, help=summary)
        self._build = build

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return self._build().make_context(info_name, args, parent=parent, **extra)


def group(
    help: str,
    summaries: Callable[[], Mapping[str, str]],
    build: Callable[[str], Command],
    kind: str = "command",
) -> TyperGroup:
    """Build a group of lazily built subcommands; see `LazyGroup` for the arguments."""
    members = {"kind": kind, "summaries": staticmethod(summaries), "build": staticmethod(build)}
    app = typer.Typer(
        cls=type("Group", (LazyGroup,), members),
        help=help,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)
    built = typer.main.get_command(app)
    assert isinstance(built, TyperGroup)
    return built


def methods_group(help: str, build: Callable[[str], Command]) -> TyperGroup:
    """A group with one subcommand per installed method."""

    def summaries() -> dict[str, str]:
        from ssltool.methods.registry import available

        return {name: listing.summary for name, listing in available().items()}

    return group(help, summaries, build, kind="method")
