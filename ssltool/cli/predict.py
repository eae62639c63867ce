"""``ssltool predict``: images that the task of a run makes of images."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from ssltool.cli._early import announce, check
from ssltool.cli._flags import command as command_from
from ssltool.cli._flags import take
from ssltool.cli._lazy import group
from ssltool.cli._output import OutputOptions, print_json
from ssltool.console import echo, stderr_console
from ssltool.options import DeviceOption
from ssltool.predicting.options import COMMANDS
from ssltool.runs.task_files import find_task


def _build(name: str) -> TyperCommand:
    about = COMMANDS[name]

    def run(typed: dict[str, Any]) -> None:
        options, output = take(about.options, typed), take(OutputOptions, typed)
        device = take(DeviceOption, typed).device
        check(options)
        find_task(options.weights, name)
        announce(quiet=output.quiet)
        from ssltool.predicting.predict import predict

        result = predict(options, device, stderr_console(output.quiet or output.as_json))
        if output.as_json:
            print_json(result.model_dump(mode="json"))
        else:
            for note in result.notes:
                echo(note, err=True)
            for file in result.files:
                echo(file)
        if result.skipped:
            first, reason = next(iter(result.skipped.items()))
            echo(
                f"error: {len(result.skipped)} of {len(options.files)} images could not be used, "
                f"such as {first}: {reason}",
                err=True,
            )
            raise typer.Exit(1)

    return command_from(
        name,
        run,
        [about.options, DeviceOption, OutputOptions],
        help=about.summary,
        examples=about.examples,
    )


command = group(
    "Make images of images: what the task of a run predicts.",
    lambda: {name: about.summary for name, about in COMMANDS.items()},
    _build,
)
