"""``ssltool bench METHOD``: training speed against the bare network."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from ssltool.cli._early import announce, check
from ssltool.cli._lazy import methods_group
from ssltool.cli._output import OutputOptions, print_json
from ssltool.console import echo, stderr_console
from ssltool.errors import UsageError
from ssltool.options import Options, option, refuse_unused

if TYPE_CHECKING:
    from ssltool.training.bench import BenchResult, SweepResult

_NOT_MEASURED = {
    *("out", "epochs", "steps", "devices", "max_restarts", "checkpoint_every", "keep"),
    *("log_every", "probe_data", "probe_every", "track"),
}


class BenchOptions(Options):
    """What is measured."""

    preset: str | None = option(None, "Named set of defaults", panel="Measurement")
    rounds: int = option(5, "Interleaved repeats", panel="Measurement", ge=1)
    round_steps: int = option(4, "Optimizer steps in each repeat", panel="Measurement", ge=1)
    sweep: str | None = option(
        None, "Batch sizes to try, as in 32,64,128, or auto", panel="Measurement", metavar="SIZES"
    )


def build(name: str) -> TyperCommand:
    """The command of one method, with the flags of ``pretrain``."""
    from ssltool.cli._flags import command, take
    from ssltool.methods.registry import find_options
    from ssltool.runs.options import RunOptions

    task = find_options(name)

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig

        options, output = take(BenchOptions, typed), take(OutputOptions, typed)
        config = RunConfig.merged(name, typed, options.preset)
        if options.sweep is not None and "batch_size" in typed:  # not of a preset
            refuse_unused(config.run, ["batch_size"], "with --sweep, which tries its own sizes")
        sizes = None if options.sweep is None else _sizes(options.sweep)
        config.require_data()
        check(config.run, config.task)
        announce(quiet=output.quiet)
        from ssltool.training.bench import bench, sweep

        console = stderr_console(output.quiet)
        rounds, steps = options.rounds, options.round_steps
        if options.sweep is None:
            result = bench(config, rounds=rounds, steps=steps, console=console)
            print_json(result.model_dump()) if output.as_json else _print_bench(result)
            return
        swept = sweep(config, sizes, rounds=rounds, steps=steps, console=console)
        print_json(swept.model_dump()) if output.as_json else _print_sweep(swept)

    from ssltool.runs.config import unknown_option

    return command(
        name,
        run,
        [RunOptions, task, BenchOptions, OutputOptions],
        help=f"Measure how fast {name} trains on this machine.",
        panels={task: f"Task: {name}"},
        omit=frozenset(_NOT_MEASURED),
        unknown=partial(unknown_option, name),
        examples=[f"ssltool bench {name} --data ~/photos --batch-size 64"],
    )


def _sizes(text: str) -> list[int] | None:
    """Batch sizes as typed; None for ``auto``."""
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


def _print_bench(result: BenchResult) -> None:
    echo(f"{'':<12}{'images/s':>10}{'per CPU-second':>16}")
    for part, speed in result.images_per_s.items():
        per_cpu = result.images_per_cpu_s[part]
        echo(f"{part.replace('_', ' '):<12}{speed:>10.1f}{per_cpu:>16.1f}")
    echo(
        f"end to end / bare network: {result.ratio:.3f} by CPU-seconds, "
        f"{result.ratio_wall:.3f} by wall time"
    )
    echo(f"{result.precision}, peak memory {result.peak_memory_gb} GB")


def _print_sweep(result: SweepResult) -> None:
    echo(
        f"{'batch':>6}{'images/s':>10}{'per CPU-second':>16}{'bare images/s':>15}{'memory GB':>11}"
    )
    for row in result.sweep:
        wall, cpu = row.images_per_s, row.images_per_cpu_s
        echo(
            f"{row.batch_size:>6}{wall['end_to_end']:>10.1f}{cpu['end_to_end']:>16.1f}"
            f"{wall['bare']:>15.1f}{row.peak_memory_gb:>11}"
        )
    echo(f"fastest {result.fastest}, largest {result.largest}: {result.stopped}")


command = methods_group("Measure training speed against the bare network.", build)
