"""``ssltool export``: hand the encoder on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssltool.cli._output import JsonFlag, print_json


def export(
    weights: Annotated[Path, typer.Option(help="Run folder or weights file")],
    to: Annotated[Path, typer.Option(help="File to write, .safetensors")],
    json: JsonFlag = False,
) -> None:
    """Write the encoder under torchvision's key names, load it back and compare."""
    from ssltool.workflows.export import export as run

    result = run(weights, to)
    if json:
        print_json(result)
        return
    typer.echo(
        f"{result['path']}: {result['tensors']} tensors, {result['parameters']:,} parameters, loaded back and compared",
        err=True,
    )
    typer.echo(result["path"])
