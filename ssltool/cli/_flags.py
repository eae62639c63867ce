"""Flags from pydantic fields: an option declared once in a model becomes a typed flag with help.

Every flag is None until typed, so that what was typed can be told from what is a default. Values
are checked by the model itself, all at once, not flag by flag."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

_SIGNS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


def flags(
    model: type[BaseModel], panel: str, only: frozenset[str] | None = None
) -> list[inspect.Parameter]:
    """One keyword parameter per field of a model, as Typer reads them.

    Args:
        model: Where the options are declared.
        panel: Heading of these flags in the help.
        only: Fields to take; all by default.
    """
    fields = model.model_fields.items()
    return [_flag(name, field, panel) for name, field in fields if only is None or name in only]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: value for name, value in values.items() if value is not None and value != []}


def command(
    name: str, parameters: list[inspect.Parameter], body: Callable[..., None], help: str
) -> TyperCommand:
    """A command with these parameters; ``body`` receives them as keywords."""

    def run(**values: Any) -> None:
        body(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command(name, help=help)(run)
    built = typer.main.get_command(app)
    assert isinstance(built, TyperCommand)
    return built


def _flag(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    kind = _plain(field.annotation)
    long = "--" + name.replace("_", "-")
    names = (f"{long}/--no-{long[2:]}",) if kind is bool else (long,)
    option = typer.Option(*names, help=_help(field), show_default=False, rich_help_panel=panel)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _help(field: FieldInfo) -> str:
    """Description, range and default of a field."""
    bounds = [
        f"{_SIGNS[type(m)][0]} {getattr(m, _SIGNS[type(m)][1])}"
        for m in field.metadata
        if type(m) in _SIGNS
    ]
    default = field.default
    if isinstance(default, tuple):
        default = " ".join(default)
    notes = bounds + ([] if default in (None, "") else [f"default: {default}"])
    return f"{field.description}" + (f" ({'; '.join(notes)})" if notes else "")


def _plain(annotation: Any) -> Any:
    """The type of a flag: Optional is stripped, tuples become lists, choices of numbers become
    numbers.
    """
    if get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]]  # type: ignore[misc]
    if get_origin(annotation) is Literal and not all(
        isinstance(value, str) for value in get_args(annotation)
    ):
        return type(get_args(annotation)[0])
    if (
        annotation is Path
        or get_origin(annotation) is Literal
        or annotation in {str, int, float, bool}
    ):
        return annotation
    raise TypeError(f"no flag for fields of type {annotation}")
