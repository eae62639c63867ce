"""``ssltool probe``: what did the encoder learn?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console


def probe(
    weights: Annotated[Path, typer.Option(help="Run folder or weights file")],
    data: Annotated[list[str], typer.Option(help="Labelled pictures: one folder per class; may be repeated")],
    test_data: Annotated[
        list[str] | None, typer.Option(help="Labelled pictures to test on; a fifth of --data by default")
    ] = None,
    kind: Annotated[str, typer.Option(help="Comma-separated: linear, layers, knn, finetune")] = "linear,layers,knn",
    labels: Annotated[
        str, typer.Option(help="Also use only these shares of the labels, such as 0.01,0.1,1 (linear, finetune)")
    ] = "",
    finetune_pictures: Annotated[
        int, typer.Option(min=1, help="Pictures shown to each network that is fine-tuned, repeats included")
    ] = 12_800,
    to: Annotated[
        Path | None, typer.Option(help="File for the curve over labels; pictures/labels.png beside the weights")
    ] = None,
    grid_numbers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also probe each stage on a grid of at most so many numbers (the papers: 9000); 0 = only its average",
        ),
    ] = 512,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also probe random weights and raw pixels")
    ] = True,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate/--no-recalibrate", help="Re-estimate batch-norm statistics on whole training pictures first"
        ),
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per batch")] = 256,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode pictures")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits and of the random weights")] = 0,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure features by linear probes, layer by layer, and nearest neighbours, beside random weights and pixels."""
    from ssltool.workflows.probe import ProbeOptions
    from ssltool.workflows.probe import probe as run

    options = ProbeOptions.checked(
        weights=weights,
        data=tuple(data),
        test_data=tuple(test_data or ()),
        kinds=tuple(part.strip() for part in kind.split(",")),
        labels=tuple(part.strip() for part in labels.split(",") if part.strip()),
        finetune_pictures=finetune_pictures,
        to=to,
        grid_numbers=grid_numbers,
        baselines=baselines,
        recalibrate=recalibrate,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
    )
    result = run(options, stderr_console(quiet))
    if json:
        print_json(result)
    else:
        if result["rows"]:
            _print_table(result)
        if "labels" in result:
            _print_labels(result)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    pictures = f"{result['train_pictures']} training and {result['test_pictures']} test pictures"
    title = f"accuracy in %, {pictures}, {len(result['classes'])} classes"
    table = Table(title=title, title_justify="left")
    measures = [name for name in ("linear", "knn20", "knn200") if any(name in row for row in result["rows"])]
    table = Table(title=title, title_justify="left")
    for name in ("features", "stage", "numbers", *measures):
        table.add_column(name, justify="left" if name in {"features", "stage"} else "right")
    for i, row in enumerate(result["rows"]):
        last = i + 1 == len(result["rows"]) or result["rows"][i + 1]["features"] != row["features"]
        cells = [f"{row[name]:.2f}" if name in row else "" for name in measures]
        table.add_row(
            row["features"],
            row["stage"],
            str(row["numbers"]),
            *cells,
            style="bold" if i == result["best"] else "",
            end_section=last,
        )
    console = Console()
    console.print(table) if console.is_terminal else Console(width=100).print(table)


def _print_labels(result: dict[str, Any]) -> None:
    """One line for each share of the labels, one column for each curve."""
    from rich.console import Console
    from rich.table import Table

    from ssltool.workflows.labels import series

    rows = result["labels"]
    names = list(dict.fromkeys(series(row) for row in rows))
    table = Table(title="accuracy in % with a share of the labels", title_justify="left")
    for name in ("labels", "pictures", *names):
        table.add_column(name, justify="right")
    for share in sorted({row["share"] for row in rows}):
        found = {series(row): row for row in rows if row["share"] == share}
        cells = [f"{found[name]['accuracy']:.2f}" if name in found else "" for name in names]
        table.add_row(f"{share:.3g}", str(next(iter(found.values()))["pictures"]), *cells)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=120).print(table)
    if "chart" in result:
        typer.echo(result["chart"])
