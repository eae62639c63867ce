"""Flags from pydantic fields: an option declared once becomes a typed flag with help.

A flag is None until it is typed, so that a typed value differs from a default. Its value is text:
the model reads and checks all values at once, and what it says of a wrong one is said in one way.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperCommand
from typer.exceptions import TyperException

from ssltool.cli._early import announce, check
from ssltool.console import PlainConsole
from ssltool.errors import SslToolError, UnknownNameError
from ssltool.options import DevicesOption, Options, choices, declared, flag_of, item_of, limits

if TYPE_CHECKING:
    from rich.table import Table

OptionsT = TypeVar("OptionsT", bound=Options)

_WIDEST = 110  # columns of a help page on a wide terminal
_TYPES = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH"}


class Flag(NamedTuple):
    """A row of the help.

    Attributes:
        panel: Heading it is listed under.
        names: ``--gap/--no-gap``, or the name of a positional argument.
        value: Type, choices or range.
        default: As typed; ``auto`` where it is decided from data and machine.
        description: What it does.
    """

    panel: str
    names: str
    value: str
    default: str
    description: str


class OptionsCommand(TyperCommand):
    """A command whose help has a column each for flags, values, defaults and descriptions."""

    models: Sequence[type[BaseModel]] = ()  # where its options are declared
    rows: Sequence[Flag] = ()
    examples: Sequence[str] = ()
    unknown: Callable[[str, Sequence[str]], SslToolError] | None = None
    words: Sequence[str] = ()  # as they were typed, the command's name first

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; an option that does not exist is answered with the nearest that do."""
        self.words = [*ctx.command_path.split()[1:], *args]
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            if type(error).__name__ != "NoSuchOption":  # a class that Typer keeps to itself
                raise
            flag = str(getattr(error, "option_name", ""))
            flags = [name for row in self.rows for name in row.names.split("/") if name[:2] == "--"]
            make = self.unknown or _unknown(ctx.command_path)
            raise make(flag, flags) from error

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page as plain text, or with styles on a terminal."""
        from rich.padding import Padding
        from rich.text import Text

        width = min(_WIDEST, shutil.get_terminal_size((80, 24)).columns)
        styled = sys.stdout.isatty()
        console = PlainConsole(width=width, force_terminal=styled)
        with console.capture() as page:
            positional = [row.names for row in self.rows if not row.names.startswith("--")]
            console.print("Usage:", ctx.command_path, "[OPTIONS]", *positional, style="bold")
            console.print(Padding(Text(self.help or ""), (1, 0, 0, 1)))
            for panel in dict.fromkeys(row.panel for row in self.rows):
                console.print()
                console.print(_table(panel, self.rows))
            if self.examples:
                console.print("\n Examples", style="bold")
                for line in self.examples:
                    console.print(Padding(Text(line), (0, 0, 0, 3)))
        formatter.write(page.get())


def command(
    name: str,
    body: Callable[[dict[str, Any]], None],
    models: Sequence[type[BaseModel]],
    *,
    help: str,
    examples: Sequence[str] = (),
    panels: Mapping[type[BaseModel], str] | None = None,
    omit: frozenset[str] = frozenset(),
    unknown: Callable[[str, Sequence[str]], SslToolError] | None = None,
) -> OptionsCommand:
    """Build a command from models of options.

    Args:
        name: Of the command.
        body: Called with the options that were typed, by field name.
        models: Where options are declared; no two share a field.
        help: One sentence.
        examples: Command lines shown at the end of the help.
        panels: Heading for fields of a model that declare none.
        omit: Fields that get no flag.
        unknown: Makes the error of a flag that does not exist, from it and those that do.
    """
    fields = [(m, field) for m in models for field in m.model_fields if field not in omit]

    def run(**values: Any) -> None:
        body({key: value for key, value in values.items() if value is not None and value != []})

    parameters = [_parameter(model, field) for model, field in fields]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command(name, help=help, cls=OptionsCommand)(run)
    built = typer.main.get_command(app)
    assert isinstance(built, OptionsCommand)
    built.models = models
    built.rows = _rows(fields, panels or {})
    built.examples = examples
    built.unknown = unknown
    return built


def _unknown(path: str) -> Callable[[str, Sequence[str]], SslToolError]:
    return lambda flag, flags: UnknownNameError(
        "option", flag, flags, hint=f"'{path} --help' lists them"
    )


def take(model: type[OptionsT], typed: dict[str, Any]) -> OptionsT:
    """Move the options of a model out of those that were typed, and validate them."""
    return model.checked(**{key: typed.pop(key) for key in model.model_fields if key in typed})


def command_of(
    name: str,
    function: Callable[..., None],
    *,
    examples: Sequence[str] = (),
    loads_torch: bool = True,
    divided: bool = False,
) -> TyperCommand:
    """Build a command from a function whose parameters are models of options.

    The models are read from the annotations, their fields become the flags, and the function is
    called with validated instances, once what they name is known to be there. The first paragraph
    of its docstring is the help.

    Args:
        name: Of the command.
        function: Its body.
        examples: Command lines shown at the end of the help.
        loads_torch: Whether a line says that PyTorch is being loaded.
        divided: Whether processes can share the work: ``--devices N`` runs the command in N.
    """
    models = list(inspect.get_annotations(function, eval_str=True).values())
    models = [model for model in models if isinstance(model, type) and issubclass(model, Options)]

    def body(typed: dict[str, Any]) -> None:
        processes = take(DevicesOption, typed).devices if divided else None
        options = [take(model, typed) for model in models]
        check(*options)
        if loads_torch:
            announce(quiet=any(getattr(each, "quiet", False) for each in options))
        if (processes or 1) > 1 and "WORLD_SIZE" not in os.environ:
            from ssltool.distributed.launcher import launch_once

            launch_once(processes or 1, built.words)
        else:
            function(*options)

    summary = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
    shown = [*models, DevicesOption] if divided else models
    built = command(name, body, shown, help=summary, examples=examples)
    return built


def _parameter(model: type[BaseModel], name: str) -> inspect.Parameter:
    """One keyword parameter as Typer reads it."""
    field, about = model.model_fields[name], declared(model, name)
    kind = str if about.get("comma") else _plain(field.annotation)
    offered = [str(choice) for choice in choices(model, name)]
    if about.get("positional"):
        metavar = about.get("metavar") or name.upper()
        argument = typer.Argument(metavar=metavar, help=field.description, show_default=False)
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, argument],
        )
    flag = flag_of(model, name)
    names = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
    option = typer.Option(
        *names,
        help=field.description,
        show_default=False,
        autocompletion=(lambda incomplete: [c for c in offered if c.startswith(incomplete)])
        if offered
        else None,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _rows(
    fields: Sequence[tuple[type[BaseModel], str]], panels: Mapping[type[BaseModel], str]
) -> list[Flag]:
    rows = []
    for model, name in fields:
        field, about = model.model_fields[name], declared(model, name)
        flag = flag_of(model, name)
        value = about.get("metavar") or _value(model, name, comma=bool(about.get("comma")))
        if about.get("positional"):
            flag = about.get("metavar") or name.upper()
            value = _value(model, name, comma=False)
        elif field.default is True:
            flag = f"{flag}/--no-{flag[2:]}"
        panel = about.get("panel") or panels.get(model) or "Options"
        rows.append(Flag(panel, flag, value, _default(field), field.description or ""))
    return rows


def _value(model: type[BaseModel], name: str, *, comma: bool) -> str:
    """Type, choices or range of a field, for the help."""
    kind, _ = item_of(model.model_fields[name].annotation)
    if get_origin(kind) is Literal:
        return (", " if comma else "|").join(map(str, get_args(kind)))
    if kind is bool:
        return ""
    value = _TYPES.get(kind, "TEXT")
    return f"{value},..." if comma else limits(model, name) or value


def _default(field: FieldInfo) -> str:
    """The default as it would be typed."""
    default = field.default
    if field.is_required():
        return "required"
    if isinstance(default, bool):
        return "on" if default else ""
    if default is None or default == ():
        return "auto" if "automatic" in (field.description or "") else ""
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _table(panel: str, rows: Sequence[Flag]) -> Table:
    """The rows of one panel, in columns as wide as all panels need."""
    from rich.table import Table
    from rich.text import Text

    # Breaks where a flag's negation, a choice or a range begins.
    names = [" " + row.names.replace("/--", "/\n --") for row in rows]
    values = [row.value.replace("|", " | ").replace(", <", " <") for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", expand=True)
    columns = (
        (f" {panel}", names, 26),
        ("value", values, 14),
        ("default", [row.default for row in rows], 10),
    )
    for heading, cells, widest in columns:
        needed = max(len(line) for cell in [*cells, heading] for line in cell.split("\n"))
        table.add_column(heading, width=min(widest, needed), overflow="fold")
    table.add_column("", ratio=1, overflow="fold")
    for name, value, row in zip(names, values, rows, strict=True):
        if row.panel == panel:
            table.add_row(Text(name), Text(value), Text(row.default), Text(row.description))
    return table


def _plain(annotation: Any) -> Any:
    """The type of a flag: bool, Path, or text that the model reads; a list of them for tuples."""
    if get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    item, _ = item_of(annotation)
    if get_origin(annotation) is tuple:
        return list[_plain(item)]  # type: ignore[misc]
    if item in {bool, Path}:
        return item
    if get_origin(item) is Literal or item in {str, int, float}:
        return str
    raise TypeError(f"no flag for fields of type {annotation}")
