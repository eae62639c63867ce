"""``ssltool pretrain METHOD``: train an encoder on a pretext task."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from ssltool.cli._lazy import methods_group
from ssltool.cli._output import OutputOptions, print_json
from ssltool.console import echo, stderr_console
from ssltool.options import Options, option, refuse_unused

if TYPE_CHECKING:
    from rich.console import Console

    from ssltool.runs.config import RunConfig
    from ssltool.training.summary import RunSummary


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
    from ssltool.runs.options import RunOptions

    method = find_method(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig

        start, output = take(StartOptions, typed), take(OutputOptions, typed)
        if start.resume:
            refuse_unused(start, ["overwrite", "dry_run"], "with --resume, which continues a run")
        config = RunConfig.merged(name, typed, start.preset, start.config)
        if start.dry_run:
            if (config.run.devices or 1) > 1:
                refuse_unused(config.run, ["devices"], "with --dry-run, which runs in one process")
            _dry_run(config, output)
        else:
            _pretrain(config, start, output)

    summary = (inspect.getdoc(inspect.getmodule(method)) or "").partition("\n")[0]
    return command(
        name,
        run,
        [RunOptions, method.Options, StartOptions, OutputOptions],
        help=summary,
        panels={method.Options: f"Task: {name}"},
        examples=[
            f"ssltool pretrain {name} --data ~/photos",
            *(f"ssltool pretrain {name} --data ~/photos --preset {p}" for p in method.presets),
        ],
    )


def _pretrain(config: RunConfig, start: StartOptions, output: OutputOptions) -> None:
    from ssltool.distributed.collectives import is_main, launched
    from ssltool.training.launch import launch, processes
    from ssltool.training.pretrain import pretrain

    console = stderr_console(output.quiet)
    devices = 1 if launched() else processes(config, resume=start.resume)
    if devices > 1:
        words = [w for w, on in (("--json", output.as_json), ("--quiet", output.quiet)) if on]
        launch(
            config,
            devices,
            words,
            resume=start.resume,
            overwrite=start.overwrite,
            console=console,
        )
        return
    summary = pretrain(config, resume=start.resume, overwrite=start.overwrite, console=console)
    if not is_main():  # of several processes the first one prints
        return
    if output.as_json:
        print_json(summary.model_dump(mode="json"))
        return
    _print_end(summary, console)
    if summary.skipped:
        echo(f"{summary.skipped} images skipped, see {summary.run}/skipped.txt", err=True)


def _print_end(summary: RunSummary, console: Console) -> None:
    """Print the weights' path on stdout, and around it on stderr what was learned and what to type
    next. On a terminal, where both streams are seen, the path stands there once.
    """
    for line in summary.learned():
        console.print(line)
    if sys.stdout.isatty() and console.is_terminal:
        console.print("weights: ", end="")
    else:
        console.print(f"weights: {summary.weights}")
    echo(summary.weights)
    for line in summary.following():
        console.print(line)


def _dry_run(config: RunConfig, output: OutputOptions) -> None:
    from ssltool.distributed.collectives import is_main
    from ssltool.training.pretrain import dry_run

    needs = dry_run(config, console=stderr_console(output.quiet))
    if output.as_json and is_main():
        print_json(needs.model_dump(mode="json"))


command = methods_group("Train an encoder on a pretext task, without labels.", build)
