"""``ssltool methods``: list the installed methods."""

from __future__ import annotations

import dataclasses

import typer

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json
from ssltool.methods.registry import available


def methods(output: JsonOption) -> None:
    """List the installed methods and the packages that provide them."""
    listings = list(available().values())
    if output.as_json:
        rows = [dataclasses.asdict(listing) for listing in listings]
        print_json([{k: v for k, v in row.items() if k != "target"} for row in rows])
        return
    width = max(len(listing.name) for listing in listings)
    for listing in listings:
        typer.echo(f"{listing.name:<{width}}  {listing.origin}  {listing.summary}")


command = command_of("methods", methods)
