"""``ssltool compare``: several runs in one table."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import OutputOptions, print_json, print_table
from ssltool.console import echo, stderr_console
from ssltool.probing.options import CompareOptions


def compare(options: CompareOptions, output: OutputOptions) -> None:
    """Probe runs alike and rank them in one table, beside random init and raw pixels."""
    from ssltool.distributed.collectives import is_main
    from ssltool.probing.compare import compare as run

    result = run(options, stderr_console(output.quiet))
    if not is_main():
        return
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    print_table(result.table())
    for path in filter(None, (result.csv, result.plot)):
        echo(path)


command = command_of(
    "compare",
    compare,
    divided=True,
    examples=[
        "ssltool compare runs/* --data labeled/",
        "ssltool compare runs/* --data labeled/ --sort knn20 --csv runs.csv --to runs.png",
    ],
)
