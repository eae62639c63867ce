"""``ssltool report``: write one HTML page on one or several runs."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.visualizing.options import ReportOptions


def report(options: ReportOptions, output: JsonOption) -> None:
    """Write one HTML page on runs: curves, predictions over time, probes; needs ssltool[report]."""
    from ssltool.visualizing.report.report import write_report

    result = write_report(options.runs, options.to, options.frames)
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    for run in result.runs:
        for line in run.missing:
            echo(f"{run.name}: {line}", err=True)
    count = len(result.runs)
    echo(f"{count} run{'s' * (count != 1)}, {result.bytes / 1e6:.1f} MB", err=True)
    echo(result.path)


command = command_of(
    "report",
    report,
    examples=["ssltool report runs/jigsaw-1", "ssltool report runs/jigsaw-1 runs/npid-1"],
)
