"""``ssltool methods``: list what can be trained and where it comes from."""

from __future__ import annotations

import dataclasses

import typer

from ssltool.cli._output import JsonFlag, print_json
from ssltool.methods.registry import available


def methods(json: JsonFlag = False) -> None:
    """List the installed methods and where they come from."""
    listings = list(available().values())
    if json:
        print_json(
            [
                {k: v for k, v in dataclasses.asdict(item).items() if k != "target"}
                for item in listings
            ]
        )
        return
    width = max(len(item.name) for item in listings)
    for item in listings:
        typer.echo(f"{item.name:<{width}}  {item.origin}  {item.summary}")
