"""``ssltool visualize WHAT``: images of tasks, answers, features, filters, permutation sets and
curves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ssltool.cli._lazy import methods_group
from ssltool.cli._output import JsonFlag, JsonOption, print_json
from ssltool.options import Options, option

Mode = Literal["max_min", "max_mean", "min_mean", "random", "code", "all"]
SeedFlag = Annotated[int, typer.Option(min=0, help="Seed of the drawn task")]
CountFlag = Annotated[int, typer.Option(min=1, max=64, help="Images to draw")]
ToFlag = Annotated[
    Path | None, typer.Option("--to", help="File to write: .png; charts also .svg or .pdf")
]
ImageFlag = Annotated[
    list[Path] | None,
    typer.Option("--image", help="Image file of your own instead; may be repeated"),
]
WeightsFlag = Annotated[Path, typer.Option("--weights", help="Run folder or weights file")]

app = typer.Typer(
    help="Draw tasks, answers, neighbors, attribution, features, filters, permutation sets and "
    "curves.",
    no_args_is_help=True,
)


def _tell(result: dict[str, Any], json: bool, shown: Iterable[str] = ()) -> None:
    """Print the document, or the paths and, on stderr, the numbers with a chance level and those
    ``shown``.
    """
    if json:
        print_json(result)
        return
    from ssltool.plotting.units import said

    chance = result.get("chance", {})
    for name, value in result.items():
        if name in chance or (isinstance(value, float) and name in shown):
            typer.echo(said(name, value, chance), err=True)
    for path in [result["path"], *result.get("charts", ())]:
        typer.echo(path)


@app.command()
def permutations(
    mode: Annotated[Mode, typer.Option(help="How the set is chosen")] = "max_min",
    count: Annotated[int, typer.Option("--permutations", help="Number of permutations")] = 100,
    grid: Annotated[int, typer.Option(min=2, max=5, help="Cells along a side")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Relabels the canonical set; 0 leaves it")] = 0,
    file: Annotated[Path | None, typer.Option(help="Draw the set of a .npy or .bin file")] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Draw the distances of the sets of all modes of this size instead"
        ),
    ] = False,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw a permutation set, its Hamming-distance matrix and histogram."""
    from ssltool.visualizing.permutations import compare_permutations, draw_permutations

    path = to or Path("permutations.png")
    if compare:
        result = compare_permutations(path, count=count, grid=grid, seed=seed)
        facts = list(result["modes"].values())
    else:
        result = draw_permutations(path, mode=mode, count=count, grid=grid, seed=seed, file=file)
        facts = [result]
    for each in facts if not json else ():
        pairs = f"{each['pairs_at_min']:,} pair{'s' * (each['pairs_at_min'] != 1)}"
        words = f"mean distance {each['mean']:.4f}, least {each['min']} ({pairs})"
        typer.echo(f"{each['mode']}: {words}", err=True)
    for mode, reason in result.get("refused", {}).items() if not json else ():
        typer.echo(f"{mode}: left out, {reason}", err=True)
    _tell(result, json)


class TaskFigureOptions(Options):
    """What is drawn of a task."""

    image: tuple[Path, ...] = option(
        (), "Draw this image file instead; may be repeated", panel="Data"
    )
    count: int = option(6, "Images to draw", panel="Figure", ge=1, le=64)
    to: Path | None = option(None, "File to write: .png; plots also .svg or .pdf", panel="Output")


def _task(name: str) -> TyperCommand:
    from ssltool.cli._flags import command, take
    from ssltool.methods.registry import find_method
    from ssltool.runs.config import RunOptions

    method = find_method(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig
        from ssltool.visualizing.task import draw_task

        options, output = take(TaskFigureOptions, typed), take(JsonOption, typed)
        config = RunConfig.merged(name, typed)
        path = options.to or Path(f"task-{name}.png")
        _tell(
            draw_task(config, path, image=options.image, count=options.count, seed=config.run.seed),
            output.as_json,
        )

    shown = {"data", "image_size", "load_size", "seed"}
    return command(
        name,
        run,
        [RunOptions, method.Options, TaskFigureOptions, JsonOption],
        help=f"Draw what {name} shows its network.",
        panels={method.Options: f"Task: {name}"},
        omit=frozenset(RunOptions.model_fields) - shown,
    )


@app.command()
def predictions(
    weights: WeightsFlag,
    method: Annotated[str | None, typer.Argument(help="The run's method, to be sure")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Images to ask about; the run's own by default")
    ] = None,
    image: ImageFlag = None,
    count: CountFlag = 6,
    seed: SeedFlag = 0,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw what a run's network answers beside the truth, and score it."""
    from ssltool.visualizing.predictions import draw_predictions

    path = to or _beside(weights, "predictions.png")
    result = draw_predictions(
        weights, path, name=method, data=data or (), image=image or (), count=count, seed=seed
    )
    _tell(result, json, result)


@app.command()
def neighbors(
    weights: WeightsFlag,
    data: Annotated[
        list[str] | None, typer.Option(help="Images to search; the run's own by default")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Look for neighbors of this image file; may be repeated"),
    ] = None,
    patch: Annotated[
        int | None,
        typer.Option(min=4, help="Compare patches of this side in px instead of whole images"),
    ] = None,
    count: CountFlag = 6,
    nearest: Annotated[int, typer.Option(min=1, max=20, help="Neighbors of each query")] = 5,
    seed: SeedFlag = 0,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw nearest neighbors in the encoder's eyes, beside random init."""
    from ssltool.visualizing.neighbors import draw_neighbors

    path = to or _beside(weights, "neighbors.png")
    found = draw_neighbors(
        weights,
        path,
        data=data or (),
        image=image or (),
        patch=patch,
        count=count,
        nearest=nearest,
        seed=seed,
    )
    for name, share in found["same_class"].items():
        typer.echo(f"of the query's class by {name}: {share:.1%}", err=True)
    _tell(found, json)


@app.command()
def filters(weights: WeightsFlag, to: ToFlag = None, json: JsonFlag = False) -> None:
    """Draw the kernels of the first layer."""
    from ssltool.visualizing.filters import draw_filters

    _tell(draw_filters(weights, to or _beside(weights, "filters.png")), json)


@app.command()
def attribution(
    weights: WeightsFlag,
    data: Annotated[
        list[str] | None, typer.Option(help="Images to look at; the run's own by default")
    ] = None,
    image: ImageFlag = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Draw this stage only; may be repeated")
    ] = None,
    count: CountFlag = 6,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw over images where each stage of an encoder responds."""
    from ssltool.visualizing.attribution import draw_attribution

    path = to or _beside(weights, "attribution.png")
    _tell(
        draw_attribution(
            weights, path, data=data or (), image=image or (), count=count, stages=stage or ()
        ),
        json,
    )


@app.command()
def features(
    weights: WeightsFlag,
    data: Annotated[
        list[str] | None, typer.Option(help="Images to place; the run's own by default")
    ] = None,
    kind: Annotated[
        Literal["pca", "tsne"],
        typer.Option(
            "--map", help="Principal components, or t-SNE, which needs the extra ssltool[maps]"
        ),
    ] = "pca",
    count: Annotated[int, typer.Option(min=4, max=20_000, help="Images placed at most")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of t-SNE")] = 0,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw a map of images by their features, framed in the colors of their classes."""
    from ssltool.visualizing.features import draw_features

    path = to or _beside(weights, f"features-{kind}.png")
    _tell(
        draw_features(weights, path, data=data or (), kind=kind, count=count, seed=seed),
        json,
        ["variance"],
    )


@app.command()
def curves(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared")
    ],
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw the metrics of runs over their steps, with chance levels."""
    from ssltool.visualizing.curves import draw_curves

    path = to or (_beside(runs[0], "curves.png") if len(runs) == 1 else Path("curves.png"))
    _tell(draw_curves(runs, path), json)


def _beside(weights: Path, name: str) -> Path:
    """Where an image goes if it is not said: among those of the run, or beside the weights file."""
    folder = weights if weights.is_dir() else weights.parent
    return folder / "figures" / name


command = typer.main.get_command(app)
command.commands["task"] = methods_group("Draw what a method shows its network.", _task)  # type: ignore[attr-defined]
