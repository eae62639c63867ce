"""Pretraining from start to end: a session is opened, and the loop's reports become metrics,
checkpoints, weights and images.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from rich.console import Console

from ssltool import atomic
from ssltool.atomic import atomic_file
from ssltool.data.sample import sample
from ssltool.distributed.collectives import any_of, from_all, is_main, launched, world_size
from ssltool.distributed.process_group import process_group
from ssltool.encoders.weights import save_encoder
from ssltool.errors import DiskFullError, Interrupted, NonFiniteLossError, SslToolError
from ssltool.probing.online import Watch
from ssltool.runs import checkpoint, metrics
from ssltool.runs import folder as runs
from ssltool.runs.config import Choice
from ssltool.training.interrupt import stop_requests
from ssltool.training.launch import launch, only_folder
from ssltool.training.metrics import Meter
from ssltool.training.progress import Display
from ssltool.training.request import Request
from ssltool.training.start import continued_run, located, new_run, to_continue
from ssltool.training.tensorboard import BOARD, Board
from ssltool.training.trainer import Session, metadata, peak_memory, prepare, steps
from ssltool.visualizing.snapshots import Place, draw

_PLATEAU = 500  # steps after which a loss still at chance is worth a word
_WATCHED = 64  # images whose features are looked at for a collapse


def pretrain(
    choice: Choice,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run ``ssltool pretrain``: in this process, with those that torchrun started beside it, or, if
    the options name several devices, in as many new processes.

    Args:
        choice: Method and options, see `ssltool.runs.config.combine`; on ``resume`` only those that
            were typed.
        resume: Continue the run in ``choice.run.out`` (or the newest of the method) from its newest
            checkpoint.
        overwrite: Replace a run folder that is not empty.
        dry_run: Take two steps, write nothing, and return what a whole run would need.
        console: Where progress goes; stderr if not given.

    Returns:
        Facts of the finished run in JSON kinds: ``run, weights, steps, loss, ..., chance,
            images_per_s, skipped``.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was saved.
        NonFiniteLossError: The loss became NaN or infinite.
        SslToolError: Anything else the user can mend.
    """
    console = console or Console(stderr=True, highlight=False)
    request = Request(choice, resume, overwrite, dry_run, console.quiet)
    if not launched():
        placed, processes = located(request)
        if processes > 1:
            return launch(placed, processes, console)
    with process_group() as restarts:
        return _pretrain(request, restarts, console if is_main() else Console(quiet=True))


def _pretrain(request: Request, restarts: int, console: Console) -> dict[str, Any]:
    """Carry out a request in this process and those that it has joined."""
    choice = request.choice
    folder = to_continue(request, restarts)
    if folder and not request.resume:
        choice = only_folder(choice, folder)
    run, source = (
        continued_run(choice, folder)
        if folder
        else new_run(choice, request.overwrite, request.dry_run)
    )
    session = prepare(run, source, console, resume=folder is not None)
    with session.batches:
        if request.dry_run:
            return _rehearse(session, console)
        if folder is None and request.overwrite and is_main() and run.folder.exists():
            shutil.rmtree(run.folder)
        try:
            if is_main():
                _begin(session, console)
            return _consume(session, console)
        except torch.OutOfMemoryError as error:
            batch = session.run.choice.run.batch_size or 2
            raise SslToolError(
                f"the device ran out of memory with {batch} images per batch; "
                f"type --batch-size {max(2, batch // 2)} --accumulate 2"
            ) from error
        finally:
            if session.board is not None:
                session.board.close()


def _begin(session: Session, console: Console) -> None:
    """Make the run folder, or trim what a killed run wrote after its last checkpoint, and say what
    will happen.
    """
    run, plan = session.run, session.plan
    atomic.remove_leftovers(run.folder)
    runs.write_run(run, plan.precision.reason, session.source.description, session.method.chance)
    metrics.trim(run.folder, session.start)
    options = run.choice.run
    if options.tensorboard:
        session.board = Board(run.folder / BOARD, session.start, session.method.chance)
    console.print(
        f"{run.choice.method} on {session.source.description}, {options.image_size} px -> "
        f"{run.folder}"
    )
    batch = f"batch {options.batch_size}" + (
        f" x {options.devices} processes" if world_size() > 1 else ""
    )
    console.print(
        f"{options.backbone} ({options.stem} stem), {batch}, {options.optimizer} lr {plan.lr:.4g}, "
        f"{plan.steps} steps "
        f"({plan.steps * plan.accumulate / session.batches.steps_per_epoch:.1f} epochs)"
    )
    task = ", ".join(
        f"{name} {value}"
        for name, value in run.choice.task.model_dump(mode="json").items()
        if value is not None
    )
    console.print(f"task: {task}")
    console.print(
        f"{session.device.type}, {plan.precision.name} ({plan.precision.reason}), channels-last"
    )
    if session.start:
        console.print(f"resumed after step {session.start}")
    else:
        _draw(session, 0)


def _consume(session: Session, console: Console) -> dict[str, Any]:
    """Take the steps; write metrics, checkpoints, weights and images as they fall due."""
    run, plan, options = session.run, session.plan, session.run.choice.run
    assert options.checkpoint_every, "resolved"
    meter, line, began = Meter(), metrics.read(run.folder)[-1:], time.monotonic()
    looked = session.start >= _PLATEAU
    probed: dict[str, float] = {}
    watch = (
        Watch(sample(session.source, run.info.image_size, _WATCHED)[0].to(session.device))
        if is_main()
        else None
    )
    shown = Display(plan.steps, session.start, session.method.chance, console)
    with stop_requests() as stop, shown as display:
        for step in steps(session):
            meter.add(step)
            display.advance(step.step)
            last = step.step == plan.steps
            # Asked once: a signal from here on is obeyed after the next step. One to any process
            # stops them all.
            stopping = any_of(stop.asked) and not last
            due = last or stopping or step.step % options.checkpoint_every == 0
            probing = bool(options.probe_data) and not stopping
            probing = probing and (
                last or step.step % (options.probe_every or options.checkpoint_every) == 0
            )
            if due or probing or step.step % options.log_every == 0:
                line = [_checked_line(meter, session)]
                if probing and session.follower is not None:
                    probed = {
                        "knn": session.follower.accuracy(
                            session.method.encoder, metadata(session, step.step)
                        )
                    }
                    line[0] |= probed
                if is_main():
                    if due and watch is not None:
                        healthy, warning = watch.look(
                            session.method.encoder, metadata(session, step.step)
                        )
                        line[0] |= healthy
                        if warning:
                            console.print(f"after {step.step} steps {warning}", style="bold red")
                    metrics.append(run.folder, line[0])
                if session.board is not None:
                    session.board.line(line[0])
                display.show({**line[0], **probed})
                if step.step >= _PLATEAU and not looked:
                    looked = True
                    _mention_plateau(line[0], session, console)
            if due:
                _save(session, step.step)
            if stopping:
                raise Interrupted(
                    f"stopped after step {step.step} of {plan.steps} with a checkpoint saved; "
                    f"type 'ssltool pretrain {run.choice.method} --out {run.folder} --resume' to "
                    "go on"
                )
    return _summary(session, line[0] if line else {}, time.monotonic() - began)


def _mention_plateau(line: dict[str, float], session: Session, console: Console) -> None:
    """Say so if the loss is still what knowing nothing would give; tasks often start with such a
    plateau.
    """
    chance = session.method.chance.get("loss")
    if chance is not None and line["loss"] > 0.98 * chance:
        console.print(
            f"after {int(line['step'])} steps the loss is still at chance, {chance:.3f}; if that "
            "lasts, "
            f"try another --lr than {session.plan.lr:.2g} or an easier task"
        )


def _checked_line(meter: Meter, session: Session) -> dict[str, float]:
    try:
        return meter.line()
    except NonFiniteLossError as error:
        good = checkpoint.newest(session.run.folder)
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        lr = session.plan.lr
        raise NonFiniteLossError(
            f"{error}; {kept}; try --lr {lr / 10:.2g}, --clip 1, or --precision fp32"
        ) from error


def _save(session: Session, step: int) -> None:
    """Save a checkpoint, the encoder, the list of skipped images, and images of the answers.

    All processes call it, for what each of them knows, and the first of them writes.
    """
    run, options = session.run, session.run.choice.run
    extra = {"scaler": session.scaler.state_dict()}
    for skipped in from_all(session.batches.skipped):
        session.skipped |= skipped
    if not is_main():
        checkpoint.save(run.folder, step, session.method, session.optimizer, extra, options.keep)
        return
    try:
        # The checkpoint comes after the encoder: a run killed between the two takes the steps again
        # and rewrites it, while one resumed from its last checkpoint has no step left that would.
        save_encoder(session.method.encoder, metadata(session, step), run.folder / runs.WEIGHTS)
        if session.skipped:
            with atomic_file(run.folder / runs.SKIPPED) as temporary:
                lines = [f"{name}: {reason}\n" for name, reason in sorted(session.skipped.items())]
                temporary.write_text("".join(lines), encoding="utf-8")
        checkpoint.save(run.folder, step, session.method, session.optimizer, extra, options.keep)
        _draw(session, step)
    except DiskFullError as error:
        kept = checkpoint.newest(run.folder)
        state = f"{kept} is intact" if kept else "no checkpoint was saved before"
        again = f"'ssltool pretrain {run.choice.method} --out {run.folder} --resume'"
        raise DiskFullError(
            f"no space left on the disk for step {step}; {state}; free some and type {again}"
        ) from error


def _draw(session: Session, step: int) -> None:
    """Draw the data and the task (at the start) or the answers (later) into the run folder and onto
    the board.
    """
    place = Place(session.run.folder / "figures", step, session.plan.seed, session.device)
    size, loaded = session.run.info.image_size, session.run.choice.run.load_size
    for name, path in draw(
        session.method, session.source, size if step else loaded or size, place
    ).items():
        if session.board is not None:
            session.board.image(name, path, step)


def _summary(session: Session, line: dict[str, float], seconds: float) -> dict[str, Any]:
    return {
        "run": str(session.run.folder),
        "weights": str(session.run.folder / runs.WEIGHTS),
        "method": session.run.choice.method,
        **line,
        "chance": session.method.chance,
        "images": session.run.info.count,
        "skipped": len(session.skipped),
        "seconds": round(seconds, 1),
    }


def _rehearse(session: Session, console: Console) -> dict[str, Any]:
    """Take two steps and say what the whole run would need."""
    taken, times = steps(session), []
    for _ in range(min(2, session.plan.steps)):
        start = time.perf_counter()
        step = next(taken)
        float(step.loss)  # waits for the device
        times.append(time.perf_counter() - start)
    size = sum(t.numel() * t.element_size() for t in session.method.state_dict().values())
    keep = session.run.choice.run.keep
    needs = {
        "method": session.run.choice.method,
        "options": session.run.choice.flat(),
        "precision": session.plan.precision.reason,
        "images_per_s": step.images * world_size() / times[-1],
        "seconds": times[-1] * session.plan.steps,
        "memory_gb": round(peak_memory(session.device) / 1e9, 2),
        "disk_gb": round((keep + 1) * 2 * size / 1e9, 3),
    }
    console.print(
        f"two steps went well: {needs['images_per_s']:.0f} images/s, {session.plan.steps} steps "
        "in about "
        f"{needs['seconds'] / 60:.1f} min, {needs['memory_gb']} GB of memory, {needs['disk_gb']} "
        "GB of disk"
    )
    return needs
