"""``ssltool export``: hand the encoder on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ssltool.cli._output import JsonFlag, print_json

Form = Literal["lightness", "lab", "rgb"]


def export(
    weights: Annotated[Path, typer.Option(help="Run folder or weights file")],
    to: Annotated[Path, typer.Option(help="File to write, .safetensors")],
    form: Annotated[
        Form | None,
        typer.Option(help="What weights that read lightness shall read; rgb is approximate"),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Images on which to say how near --form rgb comes")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write the encoder under torchvision's key names, load it back and compare."""
    from ssltool.exporting.export import export as run

    result = run(weights, to, form=form, data=data or ())
    if json:
        print_json(result)
        return
    typer.echo(
        f"{result['path']}: {result['tensors']} tensors, {result['parameters']:,} parameters, "
        "loaded back and compared",
        err=True,
    )
    if "similarity" in result:
        typer.echo(
            f"features: mean cosine similarity to the lightness form {result['similarity']:.4f}",
            err=True,
        )
    typer.echo(result["path"])
