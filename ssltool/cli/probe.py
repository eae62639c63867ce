"""``ssltool probe``: what did the encoder learn?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console


def probe(
    weights: Annotated[
        Path, typer.Option(help="Run folder, weights file, or a plain state dict (.safetensors)")
    ],
    data: Annotated[
        list[str], typer.Option(help="Labeled images: one folder per class; may be repeated")
    ],
    test_data: Annotated[
        list[str] | None,
        typer.Option(help="Labeled images to test on; a fifth of --data by default"),
    ] = None,
    label_file: Annotated[
        Path | None,
        typer.Option(
            help="CSV file of labels, lines such as 'a/1.jpg,dog;grass', instead of a folder per "
            "class"
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="Comma-separated: linear, layers, knn, svm, mlp, finetune; default "
            "linear,layers,knn"
        ),
    ] = "",
    labels: Annotated[
        str,
        typer.Option(
            help="Use only these shares of the labels, such as 0.01,0.1,1 (linear, finetune)"
        ),
    ] = "",
    shots: Annotated[
        str, typer.Option(help="Or so many labeled images of each class, such as 1,5,10")
    ] = "",
    repeats: Annotated[
        int,
        typer.Option(
            min=1, help="Seeds for --labels, --shots, mlp and finetune: gives mean and deviation"
        ),
    ] = 1,
    scratch: Annotated[
        bool,
        typer.Option(
            "--scratch", help="Also train the network on all labels for as long as pretraining took"
        ),
    ] = False,
    finetune_images: Annotated[
        int,
        typer.Option(
            min=1, help="Images shown to each network that is fine-tuned, repeats included"
        ),
    ] = 12_800,
    backbone: Annotated[
        str | None,
        typer.Option(help="What a plain state dict is of: a torchvision name such as resnet50"),
    ] = None,
    stem: Annotated[str, typer.Option(help="Its stem: imagenet or small")] = "imagenet",
    image_size: Annotated[
        int | None, typer.Option(help="Side in px at which it reads images; 224")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for probe.json and images; by default that of the run, if it is one"
        ),
    ] = None,
    grid_numbers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also probe each stage on a grid of at most so many numbers (the papers: 9000); "
            "0 = only its average",
        ),
    ] = 512,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Also probe random init, raw pixels, majority class",
        ),
    ] = True,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate/--no-recalibrate",
            help="Re-estimate batch-norm statistics on whole training images first",
        ),
    ] = True,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps features for the next command; ~/.cache/ssltool/features"
        ),
    ] = None,
    keep_features: Annotated[
        bool,
        typer.Option(
            "--keep-features/--no-keep-features", help="Keep features for the next command"
        ),
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch")] = 256,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of splits, subsets and of the random init")
    ] = 0,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure features by linear probes, layer by layer, nearest neighbors, SVMs and more, beside
    random init.
    """
    from ssltool.probing.probe import ProbeOptions
    from ssltool.probing.probe import probe as run

    options = ProbeOptions.checked(
        weights=weights,
        data=tuple(data),
        test_data=tuple(test_data or ()),
        label_file=label_file,
        kinds=listed(kind),
        labels=listed(labels),
        shots=listed(shots),
        repeats=repeats,
        scratch=scratch,
        finetune_images=finetune_images,
        backbone=backbone,
        stem=stem,
        image_size=image_size,
        to=to,
        grid_numbers=grid_numbers,
        baselines=baselines,
        recalibrate=recalibrate,
        cache=cache,
        keep_features=keep_features,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
    )
    result = run(options, stderr_console(quiet))
    if json:
        print_json(result)
        return
    if result["rows"]:
        _print_table(result)
        _print_health(result)
    if "labels" in result:
        _print_labels(result)
    for path in result["charts"]:
        typer.echo(path)


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _print_table(result: dict[str, Any]) -> None:
    from rich.table import Table

    from ssltool.probing.measures import MEASURES

    images = f"{result['train_images']} training and {result['test_images']} test images"
    title = f"accuracy in %, {images}, {len(result['classes'])} classes"
    measures = [name for name in MEASURES if any(name in row for row in result["rows"])]
    table = Table(title=title, title_justify="left")
    for name in ("features", "stage", "numbers", *measures):
        table.add_column(
            name.replace("_map", " mAP"),
            justify="left" if name in {"features", "stage"} else "right",
        )
    for i, row in enumerate(result["rows"]):
        last = i + 1 == len(result["rows"]) or result["rows"][i + 1]["features"] != row["features"]
        cells = [f"{row[name]:.2f}" if name in row else "" for name in measures]
        table.add_row(
            row["features"],
            row["stage"],
            str(row["numbers"] or ""),
            *cells,
            style="bold" if i == result["best"] else "",
            end_section=last,
        )
    print_wide(table)


def _print_health(result: dict[str, Any]) -> None:
    """One line for each network: is the representation spread out, or collapsed?"""
    for name, found in result["health"].items():
        typer.echo(
            f"{name}: effective rank {found['effective_rank']:.1f}, std {found['std']:.2f}, "
            f"uniformity {found['uniformity']:.2f}, alignment with the mirror image "
            f"{found['alignment']:.3f}"
        )
        if found["warning"]:
            typer.echo(f"warning: {found['warning']}")


def print_wide(table: Any) -> None:
    """Print a table; to a file in a width that holds it."""
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=120).print(table)


def _print_labels(result: dict[str, Any]) -> None:
    """One line for each number of labels, one column for each curve."""
    from rich.table import Table

    from ssltool.probing.label_efficiency import series

    rows = result["labels"]
    names = list(dict.fromkeys(series(row) for row in rows))
    table = Table(title="accuracy in % with some of the labels", title_justify="left")
    for name in ("labels", "images", *names):
        table.add_column(name, justify="right")
    for count in sorted({row["images"] for row in rows}):
        found = {series(row): row for row in rows if row["images"] == count}
        first = next(iter(found.values()))
        few = f"{first['share']:.3g}" if "share" in first else f"{first['shots']} a class"
        cells = [_with_deviation(found[name]) if name in found else "" for name in names]
        table.add_row(few, str(count), *cells)
    print_wide(table)


def _with_deviation(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.2f}" + (f" ± {row['deviation']:.2f}" if "deviation" in row else "")
