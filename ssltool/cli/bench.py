"""``ssltool bench METHOD``: training speed against the bare network."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ssltool.cli._methods import MethodGroup
from ssltool.cli._output import JsonFlag, QuietFlag, print_json, stderr_console


def build(name: str) -> TyperCommand:
    """The command of one method, with the flags of ``pretrain``."""
    from ssltool.cli._flags import command, flags, given
    from ssltool.methods.registry import find_method
    from ssltool.runs.config import PretrainOptions

    method = find_method(name)

    def body(
        preset: str | None,
        rounds: int,
        round_steps: int,
        sweep: str | None,
        json: bool,
        quiet: bool,
        **values: Any,
    ) -> None:
        from ssltool.runs.config import combine
        from ssltool.training import bench as workflow

        choice = combine(name, method, given(values), preset)
        if sweep is not None:
            console = stderr_console(quiet)
            swept = workflow.sweep(
                choice, _sizes(sweep), rounds=rounds, steps=round_steps, console=console
            )
            print_json(swept) if json else _print_sweep(swept)
            return
        result = workflow.bench(
            choice, rounds=rounds, steps=round_steps, console=stderr_console(quiet)
        )
        if json:
            print_json(result)
            return
        typer.echo(f"{'':<12}{'images/s':>10}{'per CPU-second':>16}")
        for part, speed in result["images_per_s"].items():
            typer.echo(
                f"{part.replace('_', ' '):<12}{speed:>10.1f}{result['images_per_cpu_s'][part]:>16.1f}"
            )
        typer.echo(
            f"end to end / bare network: {result['ratio']:.3f} by CPU-seconds, {result['ratio_wall']:.3f} by wall time"
        )
        typer.echo(f"{result['precision']}, peak memory {result['peak_memory_gb']} GB")

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter(
            "preset",
            keyword,
            default=None,
            annotation=Annotated[str | None, typer.Option(help="Set of defaults")],
        ),
        inspect.Parameter(
            "rounds",
            keyword,
            default=5,
            annotation=Annotated[int, typer.Option(min=1, help="Interleaved repeats")],
        ),
        inspect.Parameter(
            "round_steps",
            keyword,
            default=4,
            annotation=Annotated[int, typer.Option(min=1, help="Steps in each repeat")],
        ),
        inspect.Parameter(
            "sweep",
            keyword,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(help="Batch sizes to try, as in 32,64,128, or auto", metavar="SIZES"),
            ],
        ),
        inspect.Parameter("json", keyword, default=False, annotation=JsonFlag),
        inspect.Parameter("quiet", keyword, default=False, annotation=QuietFlag),
    ]
    skipped = {"out", "epochs", "steps", "checkpoint_every", "keep", "log_every"}
    run_flags = flags(PretrainOptions, "Run", frozenset(PretrainOptions.model_fields) - skipped)
    return command(
        name,
        [*extra, *flags(method.Options, f"Task: {name}"), *run_flags],
        body,
        help=f"Measure how fast {name} trains here.",
    )


def _sizes(text: str) -> list[int] | None:
    """Batch sizes as typed; None for ``auto``."""
    from ssltool.errors import UsageError

    if text == "auto":
        return None
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = [0]
    if sizes[0] < 2:
        raise UsageError(
            f"--sweep {text}: give batch sizes of at least 2, as in --sweep 32,64,128, or auto"
        )
    return sizes


def _print_sweep(result: dict[str, Any]) -> None:
    typer.echo(
        f"{'batch':>6}{'images/s':>10}{'per CPU-second':>16}{'bare images/s':>15}{'memory GB':>11}"
    )
    for row in result["sweep"]:
        wall, cpu = row["images_per_s"], row["images_per_cpu_s"]
        typer.echo(
            f"{row['batch_size']:>6}{wall['end_to_end']:>10.1f}{cpu['end_to_end']:>16.1f}{wall['bare']:>15.1f}"
            f"{row['peak_memory_gb']:>11}"
        )
    typer.echo(
        f"fastest {result['fastest']}, largest tried {result['largest']}: {result['stopped']}"
    )


class _Methods(MethodGroup):
    build = staticmethod(build)


app = typer.Typer(
    cls=_Methods, help="Measure training speed against the bare network.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    pass
