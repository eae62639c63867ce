"""Pretraining from start to end: a configuration becomes a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ssltool.console import stderr_console
from ssltool.data.sources.base import Source
from ssltool.device import choose_device
from ssltool.distributed.collectives import any_of, from_main, is_main, world_size
from ssltool.distributed.process_group import process_group
from ssltool.errors import (
    DataError,
    Interrupted,
    SslToolError,
    is_out_of_memory,
)
from ssltool.options import refuse_unused
from ssltool.runs import metrics
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import WEIGHTS
from ssltool.runs.options import ResolvedOptions
from ssltool.training import budget, start
from ssltool.training.dry_run import DryRun, rehearse
from ssltool.training.interrupt import stop_requests
from ssltool.training.machine import as_it_began
from ssltool.training.progress import ProgressLine
from ssltool.training.summary import RunSummary, shorter_run
from ssltool.training.tracking.trackers import require_packages
from ssltool.training.trainer import Trainer
from ssltool.training.writer import RunWriter


def pretrain(
    config: RunConfig,
    *,
    source: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> RunSummary:
    """Run ``ssltool pretrain`` in this process and those that torchrun started beside it.

    Args:
        config: What was asked for; on ``resume`` only the options that were given.
        source: The images; opened from the configuration unless given.
        resume: Continue the run in ``--out``, or the newest of the method, from its checkpoint.
        overwrite: Replace a run folder that is not empty.
        console: Where progress goes; stderr if not given.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP came; a checkpoint was saved.
        NonFiniteLossError: The loss became NaN or infinite.
        SslToolError: Anything else the user can mend.
    """
    began = time.monotonic()
    with process_group() as restarts:
        console = _console(console)
        begun = start.was_begun(config, resume=resume, overwrite=overwrite, restarts=restarts)
        if begun:
            resume, overwrite = True, False
            config = RunConfig.validated(config.method, {"out": config.run.out})
        with start.claimed_folder(
            config, resume=resume, overwrite=overwrite, restarts=restarts
        ) as lock:
            folder = Path(from_main(lambda: str(lock.folder) if lock else ""))
            if lock and lock.note:
                console.print(f"note: {lock.note}")
            require_packages(config.run.track)
            if resume:
                refuse_unused(config.run, ["budget"], "with --resume; --steps gives a new length")
                beginning, plan = start.resumed_run(config, folder, source), None
            else:
                beginning, plan = _new_run(config, source, folder, began, console)
            run = beginning.config.run
            device = choose_device(run.device)
            with as_it_began(beginning.resumed, device, console), _memory_errors(run):
                trainer = Trainer.build(beginning, console)
                trainer = plan.fill(trainer, console) if plan else trainer
                return _run(trainer, folder, console, overwrite=overwrite)


def dry_run(
    config: RunConfig, *, source: Source | None = None, console: Console | None = None
) -> DryRun:
    """Take two steps, write nothing, and estimate what the whole run would need.

    What a method learns from the images before its first step is left out, such as a memory bank.
    """
    began = time.monotonic()
    with process_group():
        console = _console(console)
        beginning, plan = _new_run(config, source, None, began, console)
        with _memory_errors(beginning.config.run):
            trainer = Trainer.build(beginning, console, prepare=False)
            trainer = plan.fill(trainer, console) if plan else trainer
            with trainer.batches:
                return rehearse(trainer)


def _new_run(
    config: RunConfig, source: Source | None, folder: Path | None, began: float, console: Console
) -> tuple[start.Start, budget.Plan | None]:
    """A run with every option decided, and how it is to fill its budget, if it has one."""
    source = start.open_images(config, source)
    data = start.inspected(config, source)
    plan = budget.plan(config, source, data, began, console)
    if plan:
        config, data = plan.config, plan.data
    beginning = start.new_run(config, source, folder, data)
    if beginning.left_out:
        console.print(
            f"left out, of {source.channels} channels that are no RGB: "
            f"{', '.join('--' + name.replace('_', '-') for name in beginning.left_out)}"
        )
    return beginning, plan


def _run(trainer: Trainer, folder: Path, console: Console, *, overwrite: bool) -> RunSummary:
    with trainer.batches:
        writer = RunWriter(trainer, folder, console, overwrite=overwrite)
        return _train(trainer, writer, folder, console)


@contextmanager
def _memory_errors(options: ResolvedOptions) -> Iterator[None]:
    """Say which options need less memory when it runs out.

    Raises:
        SslToolError: It did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        batch, accumulate = options.batch_size, options.accumulate
        advice = "a smaller --backbone or --image-size"
        if batch >= 4:
            advice = f"--batch-size {batch // 2} --accumulate {2 * accumulate}, or {advice}"
        raise SslToolError(
            f"memory ran out with {options.backbone} and {batch} images per batch; type {advice}"
        ) from error


def _console(console: Console | None) -> Console:
    """Of several processes the first one prints."""
    if not is_main():
        return stderr_console(quiet=True)
    return console or stderr_console()


def _train(trainer: Trainer, writer: RunWriter, folder: Path, console: Console) -> RunSummary:
    """Take the steps and write what falls due after each."""
    total, line, began = (
        trainer.schedule.steps,
        (metrics.read(folder) or [{}])[-1],
        time.monotonic(),
    )
    step = trainer.first_step
    planned = trainer.first_step or trainer.budget  # its length is known to the user
    shorter = "" if planned else shorter_run(trainer.config)
    progress = ProgressLine(total, step, writer.metrics, console, shorter)
    try:
        with stop_requests() as stop, progress:
            for report in trainer.steps():
                step = report.step
                writer.add(report)
                progress.advance(step)
                last = step == total
                # Asked once: a signal from here on is obeyed after the next step. One to any
                # process stops them all.
                stopping = any_of(stop.asked) and not last
                due = writer.due(step, last=last, stopping=stopping)
                if due.log:
                    line = writer.log(step, due)
                    progress.show(line)
                if due.checkpoint:
                    writer.save(step)
                if stopping:
                    raise Interrupted(
                        f"stopped after step {step} of {total} with a checkpoint saved; "
                        f"to continue, type {writer.resume_command()}"
                    )
    except BaseException as error:
        raised = error
        if isinstance(error, DataError):
            logged = line.get("step") == step
            raised = DataError(f"{error}; {_stop(trainer, writer, step, logged=logged)}")
        writer.close(finished=False)
        if raised is error:
            raise
        raise raised from error
    writer.close(finished=True)
    return _summary(trainer, writer, folder, line, time.monotonic() - began)


def _summary(
    trainer: Trainer, writer: RunWriter, folder: Path, line: dict[str, float], seconds: float
) -> RunSummary:
    """The end of a run whose last steps took some seconds."""
    options = trainer.config.run
    batch = options.batch_size * world_size() * options.accumulate
    own = len(trainer.source.classes) > 1
    return RunSummary(
        run=folder,
        weights=folder / WEIGHTS,
        best=writer.best,
        method=trainer.config.method,
        metrics=line,
        chance={m.name: m.chance for m in writer.metrics if m.chance is not None},
        images=trainer.config.data.count,
        skipped=writer.skipped,
        seconds=round(seconds, 1),
        resumed_after=trainer.first_step,
        steps=options.steps,
        images_seen=options.steps * batch,
        images_per_s=round((options.steps - trainer.first_step) * batch / max(seconds, 1e-3), 1),
        declared=writer.metrics,
        labeled=options.probe_data or (options.data if own else ()),
    )


def _stop(trainer: Trainer, writer: RunWriter, step: int, *, logged: bool) -> str:
    """Save a checkpoint when there are no more images; say what can be resumed."""
    # Within an accumulated step batch norm has seen images of the next step already, and other
    # processes may wait for this one in the next step.
    if step > trainer.first_step and trainer.schedule.accumulate == 1 and world_size() == 1:
        if not logged:
            writer.log(step, writer.due(step, last=False, stopping=True))
        writer.save(step, draw=False)
        saved = "with a checkpoint saved"
    else:
        saved = "earlier checkpoints are intact"
    return f"stopped after step {step}, {saved}; then type {writer.resume_command()}"
