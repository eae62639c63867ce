"""``ssltool pretrain METHOD``: train an encoder on a pretext task."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from ssltool.cli._early import announce, check
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
    from ssltool.methods.registry import available, find_options
    from ssltool.runs.options import RunOptions

    task = find_options(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig

        start, output = take(StartOptions, typed), take(OutputOptions, typed)
        if start.resume:
            refuse_unused(start, ["overwrite", "dry_run"], "with --resume, which continues a run")
        config = RunConfig.merged(name, typed, start.preset, start.config)
        if start.dry_run and (config.run.devices or 1) > 1:
            refuse_unused(config.run, ["devices"], "with --dry-run, which runs in one process")
        _check(config, start)
        announce(quiet=output.quiet)
        if start.dry_run:
            _dry_run(config, output)
        else:
            _pretrain(config, start, output)

    from ssltool.runs.config import unknown_option

    return command(
        name,
        run,
        [RunOptions, task, StartOptions, OutputOptions],
        help=available()[name].summary,
        panels={task: f"Task: {name}"},
        examples=[
            f"ssltool pretrain {name} --data ~/photos",
            *(f"ssltool pretrain {name} --data ~/photos --preset {p}" for p in task.presets),
        ],
        unknown=partial(unknown_option, name),
    )


def _check(config: RunConfig, start: StartOptions) -> None:
    """Refuse, before torch is imported, a run that could not begin or continue."""
    from ssltool.runs.claim import check_new, folder_to_resume
    from ssltool.runs.resolve import check_probe

    run = config.run
    if not start.resume:
        config.require_data()
        check_probe(run)
    check(run, config.task)
    if "RANK" in os.environ:  # of several processes another may have begun already
        return
    if start.resume:
        folder_to_resume(run.out, config.method)
    elif run.out is not None and not start.dry_run:
        check_new(run.out, overwrite=start.overwrite)


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
    if not is_main():
        return
    if output.as_json:
        print_json(needs.model_dump(mode="json"))
        return
    echo("Dry run OK")
    for name, value in needs.rows():
        echo(f"  {name:<10} {value}")


command = methods_group("Train an encoder on a pretext task, without labels.", build)
