"""The ``ssltool`` command line: one file per command, imported when it is typed.

Nothing here imports torch before a command runs, so ``ssltool --help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from ssltool import __version__
from ssltool.cli._lazy import Command, LazyGroup
from ssltool.console import escape_unencodable, printable
from ssltool.errors import SslToolError, UnknownNameError, is_out_of_memory
from ssltool.training.memory import keep_freed_memory

# Each is a file of this package.
COMMANDS = {
    "pretrain": "Train an encoder on a pretext task, without labels",
    "probe": "Measure what an encoder learned, beside random init and raw pixels",
    "audit": "Measure how much of a run's pretext answer is a shortcut",
    "compare": "Probe several runs alike and rank them in one table",
    "embed": "Write the features of images to a file",
    "export": "Write an encoder for other libraries",
    "predict": "Color images, or inpaint a region of them",
    "visualize": "Draw tasks, predictions, features, filters and curves",
    "report": "Write one HTML page on a run, or on several",
    "bench": "Measure training speed against the bare network",
    "data": "Check a set of images, or pack it into shards",
    "methods": "List the installed methods",
    "backbones": "List the networks that can be trained",
    "config": "Print a method's options as commented TOML",
    "doctor": "Print versions, the device and what is chosen on this machine",
}


_PANELS = {
    "Train": ("pretrain", "bench"),
    "Measure": ("probe", "audit", "compare"),
    "Use": ("embed", "export", "predict"),
    "Draw": ("visualize", "report"),
    "Data and options": ("data", "methods", "backbones", "config", "doctor"),
}


def _load(name: str) -> Command:
    """The command of a file; see `COMMANDS`."""
    module = importlib.import_module(f"ssltool.cli.{name}")
    command: Command = module.command
    return command


class _Commands(LazyGroup):
    summaries = staticmethod(lambda: COMMANDS)
    build = staticmethod(_load)
    panels = {name: panel for panel, names in _PANELS.items() for name in names}


app = typer.Typer(
    name="ssltool",
    cls=_Commands,
    help="Pretrain image encoders with self-supervised pretext tasks; probe, export and "
    "visualize them.",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ssltool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version"),
    ] = False,
) -> None:
    del version  # handled by its callback


def main() -> None:
    """Entry point of the ``ssltool`` command."""
    keep_freed_memory()
    escape_unencodable()
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
        if os.environ.get("TORCHELASTIC_ERROR_FILE"):
            from ssltool.distributed.launcher import write_failure

            write_failure(error)
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page
            print(error.format_message())
            return 2
        return _fail(_in_our_words(error), error.exit_code)
    except (Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("memory ran out; give the command fewer or smaller images", 1)
    return code if isinstance(code, int) else 0


def _in_our_words(error: TyperException) -> str:
    """What Typer says of a wrong command line, as our own errors do."""
    message, option = " ".join(error.format_message().split()), getattr(error, "option_name", "")
    if type(error).__name__ == "NoSuchOption":
        return str(UnknownNameError("option", option, getattr(error, "possibilities", None) or ()))
    if option and message.endswith("requires an argument."):
        return f"{option}: a value should follow it"
    if option and message.endswith("does not take a value."):
        return f"{option} takes no value"
    if extra := re.match(r"Got unexpected extra arguments? \((.*)\)", message):
        return f"unexpected argument {extra[1]}; options begin with --"
    return message


def _fail(message: str, code: int) -> int:
    # Of several processes the first one prints; of those that --devices started, the launcher.
    if os.environ.get("RANK", "0") == "0" and not os.environ.get("SSLTOOL_LAUNCHED"):
        print(f"error: {printable(message)}", file=sys.stderr)
    return code
