"""The ``ssltool`` command. Each command's file parses its flags, calls one workflow of the same
name and prints.

Nothing here imports torch before a command runs: ``ssltool --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from ssltool import __version__
from ssltool.cli import (
    bench,
    compare,
    data,
    doctor,
    embed,
    export,
    methods,
    pretrain,
    probe,
    report,
    visualize,
)
from ssltool.errors import SslToolError
from ssltool.training.memory import keep_freed_memory

app = typer.Typer(
    name="ssltool",
    help="Pretrain image encoders with self-supervised pretext tasks, probe, export and look at "
    "them.",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ssltool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version"),
    ] = False,
) -> None:
    del version  # handled by its callback


app.add_typer(pretrain.app, name="pretrain")
app.command("probe")(probe.probe)
app.command("compare")(compare.compare)
app.command("embed")(embed.embed)
app.command("export")(export.export)
app.add_typer(visualize.app, name="visualize")
app.command("report")(report.report)
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.command("methods")(methods.methods)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the ``ssltool`` command."""
    keep_freed_memory()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130
    interrupted.
    """
    try:
        code = typer.main.get_command(app).main(
            arguments, prog_name="ssltool", standalone_mode=False
        )
    except SslToolError as error:
        _tell_torchrun(str(error))
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page
            print(error.format_message())
            return 2
        return _fail(error.format_message(), error.exit_code)
    except (Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    return code if isinstance(code, int) else 0


def _tell_torchrun(message: str) -> None:
    """Leave the message where torchrun looks for it: it reports the first error of all its
    processes.
    """
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if place:
        document = {
            "message": {
                "message": f"error: {message}",
                "extraInfo": {"timestamp": int(time.time())},
            }
        }
        Path(place).write_text(json.dumps(document), encoding="utf-8")


def _fail(message: str, code: int) -> int:
    text = " ".join(message.split())
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        print(f"error: {text}", file=sys.stderr)
    return code
