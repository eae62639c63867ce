"""A configuration as TOML with a comment on every option, which ``--config`` reads back."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel

from ssltool.documents import toml_value
from ssltool.options import choices, declared, limits
from ssltool.runs.config import RunConfig

_WIDTH = 96
# Of one run on one machine, not of a configuration.
_LEFT_OUT = {"out"}


def template(config: RunConfig) -> str:
    """Every option by heading: what it does, its choices or range, and its value.

    Options that are decided from data and machine are commented out.
    """
    parts: list[tuple[str, BaseModel, str]] = [
        (str(declared(type(config.run), name)["panel"]), config.run, name)
        for name in type(config.run).model_fields
        if name not in _LEFT_OUT
    ]
    title = f"Task: {config.method}"
    parts += [(title, config.task, name) for name in type(config.task).model_fields]
    lines = [f"method = {toml_value(config.method)}"]
    for panel in dict.fromkeys(panel for panel, _, _ in parts):
        lines += ["", f"# {panel}"]
        for heading, options, name in parts:
            if heading == panel:
                lines += ["", *_option(options, name)]
    return "\n".join(lines) + "\n"


def _option(options: BaseModel, name: str) -> list[str]:
    """The lines of one option."""
    model, value = type(options), getattr(options, name)
    allowed = " | ".join(map(str, choices(model, name))) or limits(model, name)
    about = f"{model.model_fields[name].description}" + (f" [{allowed}]" if allowed else "")
    comment = [f"# {line}" for line in textwrap.wrap(about, _WIDTH - 2)]
    if value is None or value == ():
        return [*comment, f"# {name} = {'automatic' if 'automatic' in about else 'not set'}"]
    return [*comment, f"{name} = {toml_value(_plain(value))}"]


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | tuple) else str(value)
