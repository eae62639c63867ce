"""``pretrain --devices N``: a run in N processes, started again after one was killed.

A process that was killed is a reason to resume; an error is not, since it would come again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ssltool.console import stderr_console
from ssltool.distributed.launcher import start_processes
from ssltool.errors import SslToolError
from ssltool.runs import checkpoint
from ssltool.runs.claim import folder_to_resume
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run, resume_command
from ssltool.runs.records import RUN_FILE
from ssltool.training.start import claim


def processes(config: RunConfig, *, resume: bool) -> int:
    """How many processes of this machine a command asks for."""
    if config.run.devices is None and resume:
        return Run.open(folder_to_resume(config.run.out, config.method)).config.run.devices
    return config.run.devices or 1


def launch(
    config: RunConfig,
    devices: int,
    flags: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Run ``ssltool pretrain`` in several processes; start again when one of them is killed.

    Args:
        config: What was asked for.
        devices: How many processes.
        flags: Further words of the command, such as ``--quiet``.
        resume: Continue the run in ``--out``, or the newest of the method.
        overwrite: Replace a run folder that is not empty.
        console: Where remarks go.

    Returns:
        The run folder.

    Raises:
        LaunchedError: What the first process raised.
        SslToolError: Processes were killed more often than ``--max-restarts`` allows.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP came.
    """
    console = console or stderr_console()
    lock = claim(config, resume=resume, overwrite=overwrite)
    # The first process takes it. Until then the folder stays, so that no other run takes its name.
    lock.release()
    folder = lock.folder
    if resume and (threads := Run.open(folder).record.environment.get("threads")):
        os.environ.setdefault("OMP_NUM_THREADS", threads)
    try:
        _attempt(config, folder, devices, flags, console, resume=resume, overwrite=overwrite)
    finally:
        lock.remove_unused()
    return folder


def _attempt(
    config: RunConfig,
    folder: Path,
    devices: int,
    flags: Sequence[str],
    console: Console,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Start the processes, again after one was killed, until they end by themselves."""
    again = resume_command(config.method, folder)
    before, restarts = _stamp(folder), config.run.max_restarts
    given = config.with_run(out=folder).arguments()
    mode = [word for word, asked in (("--resume", resume), ("--overwrite", overwrite)) if asked]
    for attempt in range(restarts + 1):
        words = ["pretrain", config.method, *given, *mode, *flags]
        died = start_processes(devices, words, f"stopped by a signal; to continue, type {again}")
        if not died:
            return
        if attempt < restarts:
            newest = checkpoint.newest(folder)
            # Once the run was begun, it is resumed; a command that resumes is repeated as it is.
            if not resume and _stamp(folder) not in (None, before):
                given, mode = ["--out", str(folder)], ["--resume"]
            where = f"from {newest}" if newest and "--resume" in mode else "from the beginning"
            console.print(f"{died}; starting again {where}")
    count = f", after {restarts} restarts" if restarts else ""
    raise SslToolError(f"{died}{count}; to resume from the last checkpoint, type {again}")


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Tells one ``run.json`` of a folder from another."""
    try:
        status = (folder / RUN_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
