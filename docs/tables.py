"""Generate the option tables of the documentation: python docs/tables.py [--check].

A table stands between ``<!-- options: NAME -->`` and ``<!-- end -->``; NAME is a method, or
``pretrain`` for the options of every run. ``<!-- presets: NAME -->`` begins the table of a method's
presets. With --check nothing is written and the exit code is 1 if a page would change. As an
extension of Sphinx it makes the tables of the site anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssltool.methods.registry import find_options
from ssltool.options import flag_of
from ssltool.runs.options import RunOptions

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TABLE = re.compile(r"(<!-- (options|presets): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(model: type[BaseModel]) -> str:
    """A Markdown table of a model's fields."""
    rows = [f"| `{flag_of(model, name)}` | {values(field)} | {default(field)} | "
    f"{field.description} |\n"
            for name, field in model.model_fields.items()]  # fmt: skip
    return "| option | values | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def presets(method: str) -> str:
    """A Markdown table of what a method's presets set, in the order of their options."""
    of_method = find_options(method)
    named = of_method.presets
    order = {
        name: flag_of(model, name)
        for model in (RunOptions, of_method)
        for name in model.model_fields
    }
    titles = "".join(f" `{preset}` |" for preset in named)
    rows = [
        f"| `{flag}` |" + "".join(f" {shown(values.get(name))} |" for values in named.values())
        for name, flag in order.items()
        if any(name in values for values in named.values())
    ]
    return "\n".join([f"| option |{titles}", "|---" * (len(named) + 1) + "|", *rows, ""])


def shown(value: Any) -> str:
    """A preset's value; empty for an option that it leaves alone."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " ".join(map(shown, value))
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def values(field: FieldInfo) -> str:
    """Type, choices and range of a field."""
    parts = get_args(field.annotation) or (field.annotation,)
    kinds = [part for part in parts if part is not type(None)]
    kind: Any = field.annotation if get_origin(field.annotation) in {Literal, tuple} else kinds[0]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    names = {int: "whole number", float: "number", bool: "yes or no", str: "name", Path: "path"}
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, key):,}"
        for m in field.metadata
        for key, sign in signs.items()
        if hasattr(m, key)
    ]
    return ", ".join([names.get(kind, "names"), *bounds])


def default(field: FieldInfo) -> str:
    """Default of a field; ``automatic`` where it is decided from the data."""
    if field.default is None:
        return "automatic" if "automatic" in (field.description or "") else "none"
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    if isinstance(field.default, tuple):
        return " ".join(map(str, field.default)) or "none"
    return f"{field.default}"


def updated(text: str) -> str:
    """A page with current tables."""

    def update(match: re.Match[str]) -> str:
        name = match[3]
        if match[2] == "presets":
            made = presets(name)
        else:
            made = table(RunOptions if name == "pretrain" else find_options(name))
        return f"{match[1]}\n{made}\n{match[4]}"

    return TABLE.sub(update, text)


def main() -> int:
    """Update or check all pages; return the exit code."""
    changed, check = 0, "--check" in sys.argv
    for page in sorted(Path(__file__).parent.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if updated(text) == text:
            continue
        changed += 1
        print(f"{page}: {'option table is out of date' if check else 'updated'}")
        if not check:
            page.write_text(updated(text), encoding="utf-8")
    return 1 if changed and check else 0


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""

    def update(app: Sphinx, page: str, source: list[str]) -> None:
        source[0] = updated(source[0])

    app.connect("source-read", update)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    sys.exit(main())
