"""``ssltool data check``: look at a set of pictures before training on it."""

from __future__ import annotations

from typing import Annotated

import typer

from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console

app = typer.Typer(help="Look at a set of pictures.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    data: Annotated[list[str], typer.Argument(help="Folders of pictures, or demo[:N]")],
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Decode every picture; report counts, sizes, gray, unreadable and duplicate ones."""
    from ssltool.workflows.data import check as run

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
        f"{result['readable']} of {result['pictures']} pictures readable, shorter side {sides}, {result['gray']} gray"
    )
    for name, count in result["classes"].items():
        typer.echo(f"  {name}: {count}")
    for name, reason in result["unreadable"].items():
        typer.echo(f"unreadable: {name}: {reason}")
    for names in result["duplicates"]:
        typer.echo(f"equal at 32 px: {', '.join(names)}")
