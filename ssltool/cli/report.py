"""``ssltool report RUN``: a run as one page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssltool.cli._output import JsonFlag, print_json


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="HTML file to write; automatic: RUN/report.html, or report.html for several runs",
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=2, help="Images over time shown of each run at most, evenly spread")
    ] = 16,
    json: JsonFlag = False,
) -> None:
    """Write one HTML page on runs: options, data, curves, images over time, probes. Needs
    ssltool[report].
    """
    from ssltool.visualizing.report.report import write_report

    result = write_report(runs, to, frames)
    if json:
        print_json(result)
        return
    for run in result["runs"]:
        for line in run["missing"]:
            typer.echo(f"{run['name']}: {line}", err=True)
    typer.echo(
        f"{len(result['runs'])} run{'s' * (len(result['runs']) != 1)}, "
        f"{result['bytes'] / 1e6:.1f} MB",
        err=True,
    )
    typer.echo(result["path"])
