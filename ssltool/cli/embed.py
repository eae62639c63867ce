"""``ssltool embed``: one vector an image, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console


def embed(
    weights: Annotated[Path, typer.Option(help="Run folder or weights file")],
    data: Annotated[list[str], typer.Option(help="Images, as for pretrain; may be repeated")],
    to: Annotated[Path, typer.Option(help="File to write: .safetensors, .npz or .parquet")],
    stage: Annotated[
        str, typer.Option(help="pooled, or a stage such as layer3 (the average of its map)")
    ] = "pooled",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch")] = 256,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images")] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the features of images to a file, with their names and classes."""
    from ssltool.probing.embed import embed as run

    result = run(
        weights,
        tuple(data),
        to,
        stage=stage,
        batch_size=batch_size,
        workers=workers,
        console=stderr_console(quiet or json),
    )
    if json:
        print_json(result)
        return
    typer.echo(
        f"{result['file']}: {result['images']} images, {result['numbers']} numbers each ({stage})"
    )
    if result["skipped"]:
        typer.echo(f"{len(result['skipped'])} images could not be read and are left out", err=True)
