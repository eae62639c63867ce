"""Start a new run or resume an existing one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from ssltool.data.sources.base import Source
from ssltool.data.sources.same import common_fingerprint
from ssltool.distributed.collectives import from_main, is_main, world_size
from ssltool.errors import CheckpointError, UsageError
from ssltool.methods.options import DataInfo
from ssltool.runs import checkpoint
from ssltool.runs.claim import claim_new, claim_to_resume
from ssltool.runs.config import ResolvedConfig, RunConfig
from ssltool.runs.data_info import inspect
from ssltool.runs.folder import Run
from ssltool.runs.images import open_training_images
from ssltool.runs.lock import FolderLock
from ssltool.runs.options import FREE_ON_RESUME
from ssltool.runs.records import RUN_FILE, Extension, RunRecord
from ssltool.runs.resolve import check_probe, resolve, steps_of

_data_info = TypeAdapter(DataInfo)
_PATIENCE = 120.0  # seconds until a file system shared by hosts notices that one is lost


@dataclass(frozen=True)
class Start:
    """What a trainer is built from.

    Attributes:
        config: Every option, decided.
        source: The images.
        fingerprint: Identifies the images; equal in all processes.
        folder: The run folder; None for a run that is never written.
        resumed: The record of the run that is continued; None for a new one.
        extended: Every new length that the run was given.
        left_out: Options of colors that were on and do not apply, see `MethodOptions.of_color`.
    """

    config: ResolvedConfig
    source: Source
    fingerprint: str
    folder: Path | None = None
    resumed: RunRecord | None = None
    extended: tuple[Extension, ...] = ()
    left_out: tuple[str, ...] = ()


def open_images(config: RunConfig, source: Source | None = None) -> Source:
    """The images of a new run; opened from the configuration unless given.

    Raises:
        UsageError: None were named, or they are not there.
    """
    if source is None:
        config.require_data()
    return open_training_images(config.run, source)


def inspected(config: RunConfig, source: Source) -> DataInfo:
    """Statistics of the images, the same in all processes."""
    seen = from_main(lambda: asdict(inspect(source, config.run.image_size)))
    return _data_info.validate_python(seen)


def new_run(
    config: RunConfig,
    source: Source | None = None,
    folder: Path | None = None,
    data: DataInfo | None = None,
) -> Start:
    """Decide every open option.

    Args:
        config: What was asked for.
        source: The images, as `open_images` gives them; opened from the configuration unless given.
        folder: The run folder; None for a run that is never written.
        data: Statistics of the images; computed unless given.
    """
    source = source or open_images(config)
    data = data or inspected(config, source)
    fingerprint = common_fingerprint(source, content=config.run.content_hash)
    left_out = () if data.rgb else config.task.with_defaults(data).without_color()[1]
    return Start(resolve(config, data), source, fingerprint, folder, left_out=left_out)


def resumed_run(config: RunConfig, folder: Path, source: Source | None = None) -> Start:
    """Read a run back and make sure that it continues as it began.

    Args:
        config: The options that were given; those that decide the course must be the run's own,
            except its length. The schedule is stretched to a new one: the rate of a step is what it
            would be in a run begun with that length and the same warm-up.
        folder: The run folder.
        source: The images; opened from the run's configuration unless given.

    Raises:
        UsageError: Another method, other options, fewer steps than were taken, or a number of
            processes that cannot share the batch.
        CheckpointError: The images have changed.
    """
    run = Run.open(folder)
    if run.config.method != config.method:
        raise UsageError(
            f"{folder} is a run of {run.config.method}; type 'ssltool pretrain "
            f"{run.config.method} --resume'"
        )
    off = {} if run.config.data.rgb else run.config.task.of_color
    saved = {**run.config.run.model_dump(), **run.config.task.model_dump()}
    given = {name: value for name, value in config.given().items() if value is not None}
    absolute = config.absolute().given()
    changed = [
        f"--{name.replace('_', '-')} {_text(value)} (the run has {_text(saved[name])})"
        for name, value in given.items()
        if name not in {*FREE_ON_RESUME, *off, "epochs", "steps"} and absolute[name] != saved[name]
    ]
    if changed:
        raise UsageError(
            f"--resume continues as the run began, but got {', '.join(changed)}; omit them, or "
            f"start a new run with --init {folder}"
        )
    free = {name: value for name, value in given.items() if name in FREE_ON_RESUME}
    shared = {"batch_size": _batch_per_process(run), "devices": world_size()}
    extension = _extension(config, run)
    length = {"steps": extension.steps} if extension else {}
    options = run.config.run.model_copy(update={**free, **shared, **length})
    check_probe(options)
    if source is None:
        source = run.open_images(f"restore them, or start a new run with --init {folder}")
    source = run.reading(source)
    began, now = (
        run.record.source.fingerprint,
        common_fingerprint(source, content=options.content_hash),
    )
    if now != began:
        raise CheckpointError(
            f"the images of {folder} have changed since it began: "
            f"{_change(began, now, content=options.content_hash)}; restore them, or start a new "
            f"run with --init {folder}"
        )
    resolved = run.config.model_copy(update={"run": options})
    extended = (*run.record.extended, *([extension] if extension else []))
    return Start(resolved, source, began, folder, run.record, extended)


def _change(began: str, now: str, *, content: bool) -> str:
    """How two fingerprints differ, see `Source.fingerprint`."""
    if began.partition("-")[2] != now.partition("-")[2]:
        return "files were added, removed, renamed or labeled otherwise"
    if content:
        return "files of the same names differ in content"
    return (
        "files of the same names differ in size or modification time (a run begun with "
        "--content-hash can continue on a copy)"
    )


def _extension(config: RunConfig, run: Run) -> Extension | None:
    """The new length that was typed, if it is not the run's own.

    Raises:
        UsageError: More steps were taken already.
    """
    options, steps = run.config.run, config.run.steps
    if config.run.epochs is not None:
        per_step = options.batch_size * options.devices * options.accumulate
        steps = steps_of(config.run.epochs, run.config.data.count, per_step)
    if steps is None or steps == options.steps:
        return None
    newest = checkpoint.newest(run.folder)
    taken = checkpoint.step_of(newest) if newest else 0
    if steps < taken:
        raise UsageError(
            f"{run.folder} has taken {taken} of {options.steps} steps, more than the {steps} that "
            "--steps or --epochs ask for; type more, or omit them"
        )
    return Extension(at=taken, before=options.steps, steps=steps)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def claim(config: RunConfig, *, resume: bool, overwrite: bool, patience: float = 0.0) -> FolderLock:
    """Lock the folder of the run to continue or to begin; see `claimed_folder`."""
    out, method = config.run.out, config.method
    if resume:
        return claim_to_resume(out, method, patience)
    return claim_new(out, method, overwrite=overwrite)


@contextmanager
def claimed_folder(
    config: RunConfig, *, resume: bool, overwrite: bool, restarts: int = 0
) -> Iterator[FolderLock | None]:
    """Hold the folder of the run to continue or to begin, for the length of a block.

    Args:
        config: What was asked for.
        resume: Continue a run.
        overwrite: Replace a run.
        restarts: How often torchrun has started the processes again.

    Yields:
        The lock, in the first process; None in the others.

    Raises:
        UsageError: The folder is not usable, or another run uses it.
        CheckpointError: It cannot be made or written to.
    """
    if not is_main():
        yield None
        return
    patience = _PATIENCE if restarts else 0.0
    lock = claim(config, resume=resume, overwrite=overwrite, patience=patience)
    try:
        yield lock
    finally:
        lock.release()
        lock.remove_unused()


def was_begun(config: RunConfig, *, resume: bool, overwrite: bool, restarts: int) -> bool:
    """Whether torchrun started these processes again for a run that they had begun before.

    Raises:
        UsageError: torchrun may restart the processes, but they could not find their run again.
    """
    out, allowed = config.run.out, int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if allowed and not resume and (overwrite or out is None):
        raise UsageError(
            "with torchrun's --max-restarts a restarted command has to find its run: name a new "
            "folder with --out, and omit --overwrite"
        )
    if resume:  # the command as typed finds it again
        return False
    return from_main(lambda: bool(restarts and out is not None and (out / RUN_FILE).is_file()))


def _batch_per_process(run: Run) -> int:
    """The batch size with which this number of processes sees the batches the run began with."""
    options = run.config.run
    whole = options.batch_size * options.devices
    if whole % world_size() or whole // world_size() < 2:
        fitting = [str(n) for n in range(1, whole // 2 + 1) if whole % n == 0]
        raise UsageError(
            f"{run.folder} trains on batches of {whole} images, which {world_size()} processes "
            f"cannot share evenly; start {' or '.join(fitting)} processes"
        )
    return whole // world_size()
