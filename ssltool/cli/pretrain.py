"""``ssltool pretrain METHOD``: train an encoder on a pretext task."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ssltool.cli._methods import MethodGroup
from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console


def build(name: str) -> TyperCommand:
    """The command of one method, with the run's flags and the method's own."""
    from ssltool.cli._flags import command, flags, given
    from ssltool.methods.registry import find_method
    from ssltool.runs.config import PretrainOptions

    method = find_method(name)
    presets = ", ".join(method.presets) or "none"

    def body(
        preset: str | None,
        config: Path | None,
        resume: bool,
        overwrite: bool,
        dry_run: bool,
        json: bool,
        quiet: bool,
        **values: Any,
    ) -> None:
        from ssltool.runs.config import combine
        from ssltool.training.pretrain import pretrain

        choice = combine(name, method, given(values), preset, config)
        console = stderr_console(quiet)
        result = pretrain(
            choice, resume=resume, overwrite=overwrite, dry_run=dry_run, console=console
        )
        if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
            return
        if json:
            print_json(result)
        elif not dry_run:
            skipped = (
                f" ({result['skipped']} images skipped, see {result['run']}/skipped.txt)"
                if result["skipped"]
                else ""
            )
            typer.echo(f"{result['weights']}{skipped}")

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter(
            "preset",
            keyword,
            default=None,
            annotation=Annotated[str | None, typer.Option(help=f"Set of defaults: {presets}")],
        ),
        inspect.Parameter(
            "config",
            keyword,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option(help="TOML or JSON file of options, or a run.json to repeat"),
            ],
        ),
        inspect.Parameter(
            "resume",
            keyword,
            default=False,
            annotation=Annotated[
                bool, typer.Option("--resume", help="Continue the run in --out, or the newest one")
            ],
        ),
        inspect.Parameter(
            "overwrite",
            keyword,
            default=False,
            annotation=Annotated[
                bool, typer.Option("--overwrite", help="Replace the run in --out")
            ],
        ),
        inspect.Parameter(
            "dry_run",
            keyword,
            default=False,
            annotation=Annotated[
                bool,
                typer.Option("--dry-run", help="Take two steps and say what a whole run needs"),
            ],
        ),
        inspect.Parameter("json", keyword, default=False, annotation=JsonFlag),
        inspect.Parameter("quiet", keyword, default=False, annotation=QuietFlag),
    ]
    summary = (inspect.getmodule(method).__doc__ or "").partition("\n")[0]
    return command(
        name,
        [*extra, *flags(method.Options, f"Task: {name}"), *flags(PretrainOptions, "Run")],
        body,
        help=summary,
    )


class _Methods(MethodGroup):
    build = staticmethod(build)


app = typer.Typer(
    cls=_Methods, help="Train an encoder on a pretext task, without labels.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    pass
