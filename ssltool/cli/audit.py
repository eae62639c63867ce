"""``ssltool audit``: how much of a run's pretext answer is a shortcut."""

from __future__ import annotations

from ssltool.auditing.options import AuditOptions
from ssltool.cli._flags import command_of
from ssltool.cli._output import OutputOptions, print_json, print_table
from ssltool.console import echo, stderr_console


def audit(options: AuditOptions, output: OutputOptions) -> None:
    """Measure how much of a run's pretext answer is a shortcut: with cues removed, with guards
    off, by probes of low-level statistics and beside trivial answers.
    """
    from ssltool.auditing.audit import audit as run

    record = run(options, stderr_console(output.quiet))
    if output.as_json:
        print_json(record.to_dict())
        return
    for table in record.tables():
        print_table(table)
    for line in record.verdict():
        echo(line)
    echo(record.figure)


command = command_of(
    "audit",
    audit,
    examples=[
        "ssltool audit --weights runs/jigsaw-1",
        "ssltool audit jigsaw --weights runs/jigsaw-1 --data photos/ --to audit.png",
    ],
)
