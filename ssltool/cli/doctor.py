"""``ssltool doctor``: what this machine can do."""

from __future__ import annotations

import typer

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json


def doctor(output: JsonOption) -> None:
    """Print versions, the device and what is chosen on this machine."""
    from ssltool.runs.doctor import doctor as run

    result = run()
    if output.as_json:
        print_json(result)
        return
    packages = result.pop("packages")
    for name, value in {**result, **packages}.items():
        typer.echo(f"{name:<14} {value if value is not None else 'not installed'}")


command = command_of("doctor", doctor)
