"""``ssltool visualize``: draw tasks, predictions, features, filters and training curves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from ssltool.cli._early import announce, check
from ssltool.cli._flags import command as command_from
from ssltool.cli._flags import take
from ssltool.cli._lazy import Command, group, methods_group
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.options import DeviceOption, Options, refuse_unused
from ssltool.visualizing.options import FIGURES, ShownOption, TaskOptions

if TYPE_CHECKING:
    from ssltool.visualizing.results import FigureResult

_TASK = "Draw the task that a method gives to its network."
# Options of a run that shape a task.
_OF_RUN = frozenset(
    {"data", "image_size", "load_size", "channels", "value_range", "seed", "device"}
)


def _summaries() -> dict[str, str]:
    return {"task": _TASK} | {name: figure.summary for name, figure in FIGURES.items()}


def _build(name: str) -> Command:
    return methods_group(_TASK, _build_task) if name == "task" else _build_figure(name)


def _build_figure(name: str) -> TyperCommand:
    """A figure of a run, of weights, or of permutations."""
    figure = FIGURES[name]

    def run(typed: dict[str, Any]) -> None:
        options, output = take(figure.options, typed), take(JsonOption, typed)
        device, shown = take(DeviceOption, typed).device, take(ShownOption, typed)
        check(options, shown)
        announce()
        from ssltool.plotting.channels import showing
        from ssltool.visualizing.commands import draw

        with showing(shown.show_channels):
            _print(draw(name, options, device), output)

    models: list[type[Options]] = [figure.options, JsonOption]
    if figure.computes:
        models[1:1] = (ShownOption, DeviceOption)
    return command_from(name, run, models, help=figure.summary, examples=[figure.example])


def _build_task(name: str) -> TyperCommand:
    """``visualize task METHOD``, with the options of the method."""
    from ssltool.methods.registry import find_options
    from ssltool.runs.options import RunOptions

    task = find_options(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig

        options, output = take(TaskOptions, typed), take(JsonOption, typed)
        shown = take(ShownOption, typed)
        config = RunConfig.merged(name, typed)
        if options.image:
            refuse_unused(config.run, ["data"], "with --image, which is drawn instead")
        else:
            config.require_data()
        check(config.run, config.task, options, shown)
        announce()
        from ssltool.plotting.channels import showing
        from ssltool.visualizing.task import draw_task

        with showing(shown.show_channels):
            result = draw_task(
                config,
                options.to or Path(f"task-{name}.png"),
                image=options.image,
                count=options.count,
                seed=config.run.seed,
                device=config.run.device,
            )
        _print(result, output)

    from ssltool.runs.config import unknown_option

    return command_from(
        name,
        run,
        [RunOptions, task, TaskOptions, ShownOption, JsonOption],
        help=f"Draw the task that {name} gives to its network.",
        examples=[f"ssltool visualize task {name} --data photos/"],
        panels={task: f"Task: {name}"},
        omit=frozenset(RunOptions.model_fields) - _OF_RUN,
        unknown=partial(unknown_option, name),
    )


def _print(result: FigureResult, output: JsonOption) -> None:
    """Print the document; or the files on stdout and what was measured on stderr."""
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    for line in result.summary():
        echo(line, err=True)
    for path in (result.path, *result.plots):
        echo(path)


command = group("Draw figures of tasks, runs and encoders.", _summaries, _build)
