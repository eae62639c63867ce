"""``ssltool probe``: measure what an encoder learned."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import OutputOptions, print_json, print_table
from ssltool.console import echo, stderr_console
from ssltool.probing.options import ProbeOptions


def probe(options: ProbeOptions, output: OutputOptions) -> None:
    """Measure an encoder's features by linear probes of every stage, kNN, SVM, MLP and fine-tuning,
    beside random init and raw pixels.
    """
    from ssltool.distributed.collectives import is_main
    from ssltool.probing.probe import probe as run

    record = run(options, stderr_console(output.quiet))
    if not is_main():
        return
    if output.as_json:
        print_json(record.to_dict())
        for warning in record.warnings():
            echo(f"warning: {warning}", err=True)
        return
    for table in record.tables():
        print_table(table)
    for warning in record.warnings():
        echo(f"warning: {warning}")
    for path in record.plots:
        echo(path)


command = command_of(
    "probe",
    probe,
    divided=True,
    examples=[
        "ssltool probe --weights runs/jigsaw-1 --data labeled/",
        "ssltool probe --weights runs/cpc-1 --data train/ --test-data test/ --kind linear,svm",
        "ssltool probe --weights runs/cpc-1 --data train/ --label-fractions 0.01,0.1,1",
        "ssltool probe --weights runs/jigsaw-1 --data labeled/ --devices 4",
    ],
)
