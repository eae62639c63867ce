"""``ssltool visualize``: draw tasks, predictions, features, filters and training curves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from ssltool.cli._flags import command as command_from
from ssltool.cli._flags import command_of, take
from ssltool.cli._lazy import Command, group, methods_group
from ssltool.cli._output import JsonOption, print_json
from ssltool.options import DeviceOption
from ssltool.visualizing.options import (
    AttributionOptions,
    CurvesOptions,
    FeaturesOptions,
    FiltersOptions,
    NeighborsOptions,
    PermutationsOptions,
    PredictionsOptions,
    TaskOptions,
)

if TYPE_CHECKING:
    from ssltool.visualizing.results import FigureResult

_TASK = "Draw the task that a method gives to its network."
_OF_RUN = frozenset(
    {"data", "image_size", "load_size", "seed", "device"}
)  # run options that shape a task


def predictions(options: PredictionsOptions, run: DeviceOption, output: JsonOption) -> None:
    """Draw a run's predictions beside the ground truth, and score them."""
    from ssltool.visualizing.predictions import draw_predictions

    result = draw_predictions(
        options.weights,
        options.to or _beside(options.weights, "predictions.png"),
        method=options.method,
        data=options.data,
        image=options.image,
        count=options.count,
        seed=options.seed,
        device=run.device,
    )
    _print(result, output, map(str, result.scores))


def neighbors(options: NeighborsOptions, run: DeviceOption, output: JsonOption) -> None:
    """Draw nearest neighbors by an encoder's features, beside those by random init."""
    from ssltool.visualizing.neighbors import draw_neighbors

    result = draw_neighbors(
        options.weights,
        options.to or _beside(options.weights, "neighbors.png"),
        data=options.data,
        image=options.image,
        patch=options.patch,
        count=options.count,
        nearest=options.nearest,
        seed=options.seed,
        device=run.device,
    )
    lines = [f"of the query's class by {name}: {f:.1%}" for name, f in result.same_class.items()]
    _print(result, output, lines)


def features(options: FeaturesOptions, run: DeviceOption, output: JsonOption) -> None:
    """Draw a map of images by their features, framed in the colors of their classes."""
    from ssltool.visualizing.features import draw_features

    result = draw_features(
        options.weights,
        options.to or _beside(options.weights, f"features-{options.map}.png"),
        data=options.data,
        kind=options.map,
        count=options.count,
        seed=options.seed,
        device=run.device,
    )
    lines = [] if result.variance is None else [f"variance {result.variance:.1%}"]
    _print(result, output, lines)


def attribution(options: AttributionOptions, run: DeviceOption, output: JsonOption) -> None:
    """Draw over images where each stage of an encoder responds."""
    from ssltool.visualizing.attribution import draw_attribution

    result = draw_attribution(
        options.weights,
        options.to or _beside(options.weights, "attribution.png"),
        data=options.data,
        image=options.image,
        count=options.count,
        stages=options.stage,
        device=run.device,
    )
    _print(result, output)


def filters(options: FiltersOptions, output: JsonOption) -> None:
    """Draw the kernels of the first convolution."""
    from ssltool.visualizing.filters import draw_filters

    path = options.to or _beside(options.weights, "filters.png")
    _print(draw_filters(options.weights, path), output)


def permutations(options: PermutationsOptions, output: JsonOption) -> None:
    """Draw a permutation set, its Hamming-distance matrix and histogram."""
    from ssltool.visualizing.permutations import compare_permutations, draw_permutations

    path = options.to or Path("permutations.png")
    count, grid, seed = options.count, options.grid, options.seed
    if options.compare:
        result = compare_permutations(path, count=count, grid=grid, seed=seed)
    else:
        result = draw_permutations(
            path, mode=options.mode, count=count, grid=grid, seed=seed, file=options.file
        )
    lines = [f"{chosen.mode}: {chosen}" for chosen in result.sets]
    lines += [f"{mode}: left out, {reason}" for mode, reason in result.refused.items()]
    _print(result, output, lines)


def curves(options: CurvesOptions, output: JsonOption) -> None:
    """Draw the metrics of runs over their steps, with chance levels."""
    from ssltool.visualizing.curves import draw_curves

    path = Path("curves.png")
    if len(options.runs) == 1:
        path = _beside(options.runs[0], "curves.png")
    _print(draw_curves(options.runs, options.to or path), output)


def _build_task(name: str) -> TyperCommand:
    """``visualize task METHOD``, with the options of the method."""
    from ssltool.methods.registry import find_method
    from ssltool.runs.config import RunOptions

    method = find_method(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig
        from ssltool.visualizing.task import draw_task

        options, output = take(TaskOptions, typed), take(JsonOption, typed)
        config = RunConfig.merged(name, typed)
        result = draw_task(
            config,
            options.to or Path(f"task-{name}.png"),
            image=options.image,
            count=options.count,
            seed=config.run.seed,
            device=config.run.device,
        )
        _print(result, output)

    return command_from(
        name,
        run,
        [RunOptions, method.Options, TaskOptions, JsonOption],
        help=f"Draw the task that {name} gives to its network.",
        examples=[f"ssltool visualize task {name} --data photos/"],
        panels={method.Options: f"Task: {name}"},
        omit=frozenset(RunOptions.model_fields) - _OF_RUN,
    )


# Function of each subcommand -> an example for its help.
_COMMANDS: dict[Callable[..., None], str] = {
    predictions: "ssltool visualize predictions --weights runs/jigsaw-1 --data photos/",
    neighbors: "ssltool visualize neighbors --weights runs/npid-1 --data labeled/",
    features: "ssltool visualize features --weights runs/npid-1 --data labeled/ --map tsne",
    attribution: "ssltool visualize attribution --weights runs/jigsaw-1 --image cat.jpg",
    filters: "ssltool visualize filters --weights runs/colorization-1",
    permutations: "ssltool visualize permutations --permutations 1000 --mode code",
    curves: "ssltool visualize curves runs/jigsaw-1 runs/jigsaw-2 --to curves.svg",
}


def _summaries() -> dict[str, str]:
    return {"task": _TASK} | {f.__name__: inspect.getdoc(f) or "" for f in _COMMANDS}


def _build(name: str) -> Command:
    if name == "task":
        return methods_group(_TASK, _build_task)
    function, example = next(item for item in _COMMANDS.items() if item[0].__name__ == name)
    return command_of(name, function, examples=[example])


def _print(result: FigureResult, output: JsonOption, lines: Iterable[str] = ()) -> None:
    """Print the document; or the files on stdout and what was measured on stderr."""
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    for line in lines:
        typer.echo(line, err=True)
    for path in (result.path, *result.plots):
        typer.echo(path)


def _beside(weights: Path, name: str) -> Path:
    """Default path of a figure: in the run folder, or beside the weights file."""
    folder = weights if weights.is_dir() else weights.parent
    return folder / "figures" / name


command = group("Draw figures of tasks, runs and encoders.", _summaries, _build)
