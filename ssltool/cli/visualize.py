"""``ssltool visualize WHAT``: PNG files of tasks, answers, features, filters, permutation sets and curves."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ssltool.cli._methods import MethodGroup
from ssltool.cli._output import JsonFlag, print_json

Mode = Literal["max_min", "max_mean", "min_mean", "random", "code", "all"]
SeedFlag = Annotated[int, typer.Option(min=0, help="Seed of the drawn task")]
CountFlag = Annotated[int, typer.Option(min=1, max=64, help="Pictures to draw")]
ToFlag = Annotated[Path | None, typer.Option("--to", help="File to write; the suffix says the format")]
WeightsFlag = Annotated[Path, typer.Option("--weights", help="Run folder or weights file")]

app = typer.Typer(
    help="Draw tasks, answers, neighbours, features, filters, permutation sets and curves.", no_args_is_help=True
)


def _tell(result: dict[str, Any], json: bool) -> None:
    """Print the document, or the path and the numbers beside it."""
    if json:
        print_json(result)
        return
    from ssltool.workflows.visualize import said

    chance = result.get("chance", {})
    for name, value in result.items():
        if name in chance or isinstance(value, float):
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
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw a permutation set, its Hamming-distance matrix and histogram."""
    from ssltool.workflows.visualize import draw_permutations

    path = to or Path("permutations.png")
    _tell(draw_permutations(path, mode=mode, count=count, grid=grid, seed=seed, file=file), json)


def _task(name: str) -> TyperCommand:
    from ssltool.cli._flags import command, flags, given
    from ssltool.methods.find import find_method
    from ssltool.workflows.options import PretrainOptions

    method = find_method(name)

    def body(to: Path | None, count: int, seed: int, json: bool, **values: Any) -> None:
        from ssltool.workflows.options import combine
        from ssltool.workflows.visualize import draw_task

        choice = combine(name, method, given(values))
        _tell(draw_task(choice, to or Path(f"task-{name}.png"), count=count, seed=seed), json)

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter("to", keyword, default=None, annotation=ToFlag),
        inspect.Parameter("count", keyword, default=6, annotation=CountFlag),
        inspect.Parameter("seed", keyword, default=0, annotation=SeedFlag),
        inspect.Parameter("json", keyword, default=False, annotation=JsonFlag),
    ]
    run_flags = flags(PretrainOptions, "Pictures", frozenset({"data", "image_size"}))
    return command(
        name,
        [*extra, *run_flags, *flags(method.Options, f"Task: {name}")],
        body,
        help=f"Draw what {name} shows its network.",
    )


class _Tasks(MethodGroup):
    build = staticmethod(_task)


task = typer.Typer(cls=_Tasks, help="Draw what a method shows its network.", no_args_is_help=True)
app.add_typer(task, name="task")


@task.callback()
def _group() -> None:
    pass


@app.command()
def solve(
    weights: WeightsFlag,
    method: Annotated[str | None, typer.Argument(help="The run's method, to be sure")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Pictures to ask about; the run's own by default")] = None,
    count: CountFlag = 6,
    seed: SeedFlag = 0,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw what a run's network answers beside the truth, and score it."""
    from ssltool.workflows.visualize import draw_answers

    path = to or weights / "pictures" / "solve.png"
    _tell(draw_answers(weights, path, name=method, data=data or (), count=count, seed=seed), json)


@app.command()
def neighbors(
    weights: WeightsFlag,
    data: Annotated[list[str] | None, typer.Option(help="Pictures to search; the run's own by default")] = None,
    patch: Annotated[
        int | None, typer.Option(min=4, help="Compare patches of this side in px instead of whole pictures")
    ] = None,
    count: CountFlag = 6,
    nearest: Annotated[int, typer.Option(min=1, max=20, help="Neighbours of each query")] = 5,
    seed: SeedFlag = 0,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw nearest neighbours in the encoder's eyes, beside random weights."""
    from ssltool.workflows.neighbors import draw_neighbors

    folder = weights if weights.is_dir() else weights.parent
    path = to or folder / "pictures" / "neighbors.png"
    found = draw_neighbors(weights, path, data=data or (), patch=patch, count=count, nearest=nearest, seed=seed)
    for name, share in found["same_class"].items():
        typer.echo(f"of the query's class by {name}: {share:.1%}", err=True)
    _tell(found, json)


@app.command()
def filters(weights: WeightsFlag, to: ToFlag = None, json: JsonFlag = False) -> None:
    """Draw the kernels of the first layer."""
    from ssltool.workflows.visualize import draw_filters

    folder = weights if weights.is_dir() else weights.parent
    _tell(draw_filters(weights, to or folder / "pictures" / "filters.png"), json)


@app.command()
def features(
    weights: WeightsFlag,
    data: Annotated[list[str] | None, typer.Option(help="Pictures to place; the run's own by default")] = None,
    kind: Annotated[
        Literal["pca", "tsne"],
        typer.Option("--map", help="Principal components, or t-SNE, which needs the extra ssltool[maps]"),
    ] = "pca",
    count: Annotated[int, typer.Option(min=4, max=20_000, help="Pictures placed at most")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of t-SNE")] = 0,
    to: ToFlag = None,
    json: JsonFlag = False,
) -> None:
    """Draw a map of pictures by their features, framed in the colours of their classes."""
    from ssltool.workflows.visualize import draw_features

    folder = weights if weights.is_dir() else weights.parent
    path = to or folder / "pictures" / f"features-{kind}.png"
    _tell(draw_features(weights, path, data=data or (), kind=kind, count=count, seed=seed), json)


@app.command()
def curves(run: Annotated[Path, typer.Argument(help="Run folder")], to: ToFlag = None, json: JsonFlag = False) -> None:
    """Draw a run's metrics over its steps."""
    from ssltool.workflows.visualize import draw_curves

    _tell(draw_curves(run, to or run / "pictures" / "curves.png"), json)
