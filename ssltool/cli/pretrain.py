"""``ssltool pretrain METHOD``: train an encoder on a pretext task."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from ssltool.cli._lazy import methods_group
from ssltool.cli._output import OutputOptions, print_json, stderr_console
from ssltool.options import Options, option


class StartOptions(Options):
    """How a run starts; not part of the run's configuration."""

    preset: str | None = option(None, "Named set of defaults", panel="Run")
    config: Path | None = option(
        None, "TOML or JSON file of options, or a run.json to repeat", panel="Run"
    )
    resume: bool = option(False, "Continue the run in --out, or the newest one", panel="Run")
    overwrite: bool = option(False, "Replace the run in --out", panel="Run")
    dry_run: bool = option(
        False, "Take two steps and print what the whole run would need", panel="Run"
    )


def build(name: str) -> TyperCommand:
    """The command of one method, with the run's options and the method's own."""
    from ssltool.cli._flags import command, take
    from ssltool.methods.registry import find_method
    from ssltool.runs.config import PretrainOptions

    method = find_method(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import combine
        from ssltool.training.pretrain import pretrain

        start, output = take(StartOptions, typed), take(OutputOptions, typed)
        choice = combine(name, method, typed, start.preset, start.config)
        result = pretrain(
            choice,
            resume=start.resume,
            overwrite=start.overwrite,
            dry_run=start.dry_run,
            console=stderr_console(output.quiet),
        )
        if os.environ.get("RANK", "0") != "0":  # of several processes the first one prints
            return
        if output.as_json:
            print_json(result)
        elif not start.dry_run:
            typer.echo(result["weights"])
            if result["skipped"]:
                typer.echo(
                    f"{result['skipped']} images skipped, see {result['run']}/skipped.txt", err=True
                )

    summary = (inspect.getdoc(inspect.getmodule(method)) or "").partition("\n")[0]
    return command(
        name,
        run,
        [PretrainOptions, method.Options, StartOptions, OutputOptions],
        help=summary,
        panels={method.Options: f"Task: {name}"},
        examples=[
            f"ssltool pretrain {name} --data ~/photos",
            *(f"ssltool pretrain {name} --data ~/photos --preset {p}" for p in method.presets),
        ],
    )


command = methods_group("Train an encoder on a pretext task, without labels.", build)
