"""``ssltool compare``: several runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console
from ssltool.cli.probe import listed, print_wide


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or weights files")],
    data: Annotated[
        list[str], typer.Option(help="Labeled images: one folder per class; may be repeated")
    ],
    test_data: Annotated[
        list[str] | None,
        typer.Option(help="Labeled images to test on; a fifth of --data by default"),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="As in probe; runs that were probed so before are not probed again")
    ] = "linear,layers,knn",
    sort: Annotated[
        str,
        typer.Option(
            help="Column to sort by: linear (best stage), pooled linear, knn20, ..., effective rank"
        ),
    ] = "linear",
    csv: Annotated[Path | None, typer.Option(help="Also write the table to this CSV file")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Also draw the column to this file (.png, .svg, .pdf)")
    ] = None,
    grid_numbers: Annotated[int, typer.Option(min=0, help="As in probe")] = 512,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Also random init, raw pixels, majority class"
        ),
    ] = True,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps features; ~/.cache/ssltool/features")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch")] = 256,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits and of the random init")] = 0,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Probe runs alike and show them in one table, the best first, beside random init and raw
    pixels.
    """
    from rich.table import Table

    from ssltool.probing.compare import COLUMNS
    from ssltool.probing.compare import compare as run
    from ssltool.probing.probe import ProbeOptions

    options = ProbeOptions.checked(
        weights=runs[0],
        data=tuple(data),
        test_data=tuple(test_data or ()),
        kinds=listed(kind),
        grid_numbers=grid_numbers,
        baselines=baselines,
        cache=cache,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
    )
    result = run(runs, options, sort=sort, table=csv, image=to, console=stderr_console(quiet))
    if json:
        print_json(result)
        return
    images = f"{result['train_images']} training and {result['test_images']} test images"
    title = (
        f"accuracy in %, {images}, {len(result['classes'])} classes; linear is of the best stage"
    )
    shown = [name for name in COLUMNS if any(name in row for row in result["rows"])]
    table = Table(title=title, title_justify="left")
    for name in ("run", "method", "stage", *shown):
        table.add_column(name, justify="left" if name in {"run", "method", "stage"} else "right")
    for row in result["rows"]:
        cells = [f"{row[name]:.2f}" if name in row else "" for name in shown]
        table.add_row(
            row["name"],
            row["method"],
            row.get("stage", ""),
            *cells,
            style="bold" if row["method"] else "",
        )
    print_wide(table)
    for path in (result.get("table"), result.get("chart")):
        if path:
            typer.echo(path)
