"""``ssltool methods``: list the installed methods."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.methods.registry import available


def methods(output: JsonOption) -> None:
    """List the installed methods and the packages that provide them."""
    listings = list(available().values())
    if output.as_json:
        fields = ("name", "origin", "summary")
        print_json([{field: getattr(listing, field) for field in fields} for listing in listings])
        return
    width = max(len(listing.name) for listing in listings)
    for listing in listings:
        echo(f"{listing.name:<{width}}  {listing.origin}  {listing.summary}")


command = command_of("methods", methods, loads_torch=False)
