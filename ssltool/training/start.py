"""Which run a command is about: a new one, with every option decided from the data, or one to go on
with.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, replace
from pathlib import Path

from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.distributed.collectives import from_main, rank, world_size
from ssltool.errors import CheckpointError, DataError, UsageError
from ssltool.methods.base import DataInfo
from ssltool.methods.registry import find_method
from ssltool.runs import folder as runs
from ssltool.runs.config import FREE_ON_RESUME, Choice, PretrainOptions, resolved, validated
from ssltool.runs.data_info import describe
from ssltool.training.request import Request


def located(request: Request) -> tuple[Request, int]:
    """Name the folder of a request's run, and say how many processes it asks for."""
    choice, devices = request.choice, request.choice.run.devices
    if request.resume:
        out = runs.folder_to_resume(choice.run.out, choice.method)
        devices = devices or runs.read_run(out).choice.run.devices
    elif not request.dry_run:
        out = runs.new_folder(choice.run.out, choice.method, request.overwrite)
    else:
        return request, devices or 1
    placed = choice.model_copy(update={"run": choice.run.model_copy(update={"out": out})})
    return replace(request, choice=placed), devices or 1


def to_continue(request: Request, restarts: int) -> Path | None:
    """The folder of the run to continue, the same for all processes; None begins a new one.

    When torchrun has started the processes again, that is the run which they began the first time.
    """
    choice, allowed = request.choice, int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if (
        allowed
        and not (request.resume or request.dry_run)
        and (request.overwrite or choice.run.out is None)
    ):
        raise UsageError(
            "with torchrun's --max-restarts a restarted command has to find its run: name a new "
            "folder with --out, "
            "and drop --overwrite"
        )

    def find() -> str | None:
        if request.resume:
            return str(runs.folder_to_resume(choice.run.out, choice.method))
        begun = (
            restarts and choice.run.out is not None and (choice.run.out / runs.RUN_FILE).is_file()
        )
        return str(choice.run.out) if begun else None

    found = from_main(find)
    return Path(found) if found else None


def new_run(choice: Choice, overwrite: bool, dry_run: bool) -> tuple[runs.Run, Source]:
    """Look at the data and decide every open option."""
    out = Path(
        from_main(
            lambda: (
                "-" if dry_run else str(runs.new_folder(choice.run.out, choice.method, overwrite))
            )
        )
    )
    source = open_source(choice.run.data)
    info = DataInfo.from_json(from_main(lambda: asdict(describe(source, choice.run.image_size))))
    decided = resolved(choice, find_method(choice.method), info)
    info = replace(info, batch_size=(decided.run.batch_size or 0) * world_size())
    return runs.Run(out, decided, info, _fingerprint(source), {}, ""), source


def _fingerprint(source: Source) -> str:
    """What identifies the images, which all processes have to see alike."""
    mine = source.fingerprint()
    if from_main(lambda: mine) != mine:
        raise DataError(
            f"process {rank()} on {platform.node()} sees other images than process 0: "
            f"{source.description}; "
            "give all machines the same files under the same path"
        )
    return mine


def continued_run(typed: Choice, folder: Path) -> tuple[runs.Run, Source]:
    """Read a run back and make sure that it would go on as it began."""
    run = runs.read_run(folder)
    if run.choice.method != typed.method:
        raise UsageError(
            f"{folder} is a run of {run.choice.method}; type 'ssltool pretrain "
            f"{run.choice.method} --resume'"
        )
    given = {
        **typed.run.model_dump(exclude_unset=True),
        **typed.task.model_dump(exclude_unset=True),
    }
    saved = {
        **run.choice.run.model_dump(),
        **run.choice.task.model_dump(),
        **_shared(run.choice.run, folder),
    }
    given["devices"] = world_size()
    wanted = validated(typed.method, find_method(typed.method), {**saved, **given, "epochs": None})
    now = {**wanted.run.model_dump(), **wanted.task.model_dump()}
    changed = [name for name in given if now[name] != saved[name] and name not in FREE_ON_RESUME]
    if changed:
        listed = ", ".join(
            f"--{name.replace('_', '-')} {given[name]} (the run has {saved[name]})"
            for name in changed
        )
        raise UsageError(
            f"--resume goes on as the run began, but got {listed}; drop them, or start a new run "
            f"with --init {folder}"
        )
    source = open_source(run.choice.run.data)
    if _fingerprint(source) != run.fingerprint:
        raise CheckpointError(
            f"the images of {folder} have changed since it began; "
            f"restore them, or start a new run with --init {folder}"
        )
    return replace(run, choice=wanted), source


def _shared(options: PretrainOptions, folder: Path) -> dict[str, int]:
    """The batch size with which this number of processes sees the batches that the run began with."""
    whole = (options.batch_size or 0) * (options.devices or 1)
    if whole % world_size() or whole // world_size() < 2:
        fitting = [str(n) for n in range(1, whole // 2 + 1) if whole % n == 0]
        raise UsageError(
            f"{folder} trains on batches of {whole} images, which {world_size()} processes "
            "cannot share evenly; "
            f"start {' or '.join(fitting)} processes"
        )
    return {"batch_size": whole // world_size()}
