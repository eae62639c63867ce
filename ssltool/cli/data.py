"""``ssltool data``: look at a set of images before training on it, and pack it into shards."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console

app = typer.Typer(help="Look at a set of images, pack it into shards.", no_args_is_help=True)
Sources = Annotated[
    list[str], typer.Argument(help="Folders, tar shards, torchvision:NAME@ROOT or demo[:N]")
]


class Form(StrEnum):
    """How packed images are stored."""

    auto = "auto"
    jpeg = "jpeg"
    png = "png"


@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    data: Sources,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Decode every image; report counts, sizes, gray, unreadable and duplicate ones."""
    from ssltool.data.check import check as run

    result = run(data, stderr_console(quiet))
    if json:
        print_json(result)
        return
    sides = (
        "{} to {} px, median {}".format(*(result["short_side"][i] for i in (0, 2, 1)))
        if result["short_side"]
        else "none"
    )
    typer.echo(
        f"{result['readable']} of {result['images']} images readable, shorter side {sides}, "
        f"{result['gray']} gray"
    )
    for name, count in result["classes"].items():
        typer.echo(f"  {name}: {count}")
    for name, reason in result["unreadable"].items():
        typer.echo(f"unreadable: {name}: {reason}")
    for names in result["duplicates"]:
        typer.echo(f"equal at 32 px: {', '.join(names)}")


@app.command()
def pack(
    data: Sources,
    to: Annotated[str, typer.Option(help="Folder for the shards")],
    size: Annotated[
        int, typer.Option(min=8, help="Shorter side in pixels; smaller images are not enlarged")
    ] = 256,
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard")] = 2000,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG")] = 90,
    form: Annotated[
        Form, typer.Option("--format", help="auto: PNG up to 64 px, JPEG above")
    ] = Form.auto,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the order in which images are spread over the shards")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; decided from the cores if not given")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove shards that are there already")
    ] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write resized images and their classes to tar shards in WebDataset layout."""
    from ssltool.data.pack import pack as run

    result = run(
        data,
        to,
        size=size,
        per_shard=per_shard,
        quality=quality,
        form=form.value,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        console=stderr_console(quiet),
    )
    if json:
        print_json(result)
        return
    for name, reason in result["skipped"].items():
        typer.echo(f"skipped: {name}: {reason}")
    typer.echo(
        f"{result['images']} images of {len(result['classes'])} classes in {result['shards']} "
        "shards, "
        f"{result['bytes'] / 1e6:.1f} MB, {result['seconds']} s, {len(result['skipped'])} "
        f"skipped -> {result['folder']}"
    )


@app.command()
def index(
    folder: Annotated[str, typer.Argument(help="Folder of .tar files")],
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Read the headers of tar shards once and keep them beside the shards, so that runs start at
    once.
    """
    from ssltool.data.pack import index as run

    result = run(folder, stderr_console(quiet))
    if json:
        print_json(result)
        return
    typer.echo(
        f"{result['images']} images of {len(result['classes'])} classes in {result['shards']} "
        "shards"
    )
