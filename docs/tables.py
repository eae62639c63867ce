"""Fill the option tables of these pages from the code: python docs/tables.py [--check].

A table stands between ``<!-- options: NAME -->`` and ``<!-- end -->``; NAME is a method, or
``pretrain`` for the options of every run. With --check nothing is written and the exit code is 1 if
a page would change.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssltool.methods.registry import find_method
from ssltool.runs.options import RunOptions

MARKED = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(model: type[BaseModel]) -> str:
    """A Markdown table of a model's fields."""
    rows = [f"| `--{name.replace('_', '-')}` | {values(field)} | {default(field)} | "
    f"{field.description} |\n"
            for name, field in model.model_fields.items()]  # fmt: skip
    return "| option | values | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def values(field: FieldInfo) -> str:
    """The kind of a field's values and their range."""
    kinds = [
        kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)
    ]
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
    """A field's default."""
    if field.default is None:
        return "automatic" if "automatic" in (field.description or "") else "none"
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    return (
        (" ".join(field.default) or "none")
        if isinstance(field.default, tuple)
        else f"{field.default}"
    )


def filled(text: str) -> str:
    """A page with its tables renewed."""

    def renew(match: re.Match[str]) -> str:
        model = RunOptions if match[2] == "pretrain" else find_method(match[2]).Options
        return f"{match[1]}\n{table(model)}\n{match[3]}"

    return MARKED.sub(renew, text)


def main() -> int:
    """Renew or check all pages; return the exit code."""
    changed = 0
    for page in sorted(Path(__file__).parent.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            changed += 1
            print(
                f"{page}: option table is out of date"
                if "--check" in sys.argv
                else f"{page}: renewed"
            )
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    return 1 if changed and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
