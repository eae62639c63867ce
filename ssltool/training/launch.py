"""``--devices N``: run the same command in N processes under torchrun's own launcher.

``torch.distributed.run`` starts the processes and stops them together. Each leaves the line of its
error where the launcher looks for it; a process that was killed is a reason to resume, an error is
not, since it would come again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rich.console import Console

from ssltool.console import stderr_console
from ssltool.cores import available_cores
from ssltool.errors import Interrupted, ProcessLost, SslToolError
from ssltool.runs import checkpoint
from ssltool.runs.claim import folder_to_resume
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run, resume_command
from ssltool.runs.records import RUN_FILE
from ssltool.training.interrupt import hangup_signals
from ssltool.training.start import claim

LAUNCHED = "SSLTOOL_LAUNCHED"  # set in the environment of processes started here
_PATIENCE = "120"  # seconds given to processes to save and leave after a signal


class Failure(NamedTuple):
    """Why a process ended, as it wrote it down itself.

    Attributes:
        time: In seconds since 1970.
        kind: Name of the error's class.
        message: The error's line.
        exit_code: Of the process.
    """

    time: float
    kind: str
    message: str
    exit_code: int


class LaunchedError(SslToolError):
    """An error that one of the launched processes raised."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.exit_code = failure.exit_code


def write_failure(error: SslToolError) -> None:
    """Leave an error where torchrun looks for it; it reports the first of all its processes."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    now = time.time()
    extra = {
        "timestamp": int(now),
        "time": now,
        "kind": type(error).__name__,
        "exit_code": error.exit_code,
    }
    document = {"message": {"message": f"error: {error}", "extraInfo": extra}}
    Path(path).write_text(json.dumps(document), encoding="utf-8")


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
        died = _run(devices, ["pretrain", config.method, *given, *mode, *flags], again)
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


def _run(devices: int, words: Sequence[str], again: str) -> str:
    """Start the processes and wait for their end; how the first was killed, or ``""``."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed."):
            # Its report of an error is as long as a page.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // devices)))
    os.environ[LAUNCHED] = "1"
    with tempfile.TemporaryDirectory(prefix="ssltool-") as logs:
        own = f"--standalone --nproc-per-node {devices} --max-restarts 0 --local-addr localhost"
        handled = (signal.SIGTERM, *hangup_signals(), signal.SIGQUIT)
        own += f" --signals-to-handle {','.join(s.name for s in handled)}"
        arguments = [*own.split(), "--log-dir", logs, "-m", "ssltool", *words]
        try:
            with _interrupt_as(SignalException):
                run(parse_args(arguments))  # type: ignore[no-untyped-call]
        except (ChildFailedError, SignalException) as error:
            first = _first_failure(Path(logs))
            if first is not None:
                raise LaunchedError(first) from error
            if isinstance(error, SignalException):
                raise Interrupted(f"stopped by a signal; to continue, type {again}") from error
            return _killed(error)
        finally:
            del os.environ[LAUNCHED]
    return ""


def _killed(error: object) -> str:
    """Which process was killed by which signal; the launcher ends the others with SIGTERM."""
    failures = error.failures  # type: ignore[attr-defined]
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
            return f"process {rank} was killed by signal {-failure.exitcode}"
    return "a process failed"


def _first_failure(logs: Path) -> Failure | None:
    """The first error that a process wrote down; having lost the others does not count."""
    failures = []
    for path in logs.rglob("error.json"):
        message = json.loads(path.read_text(encoding="utf-8"))["message"]
        if isinstance(message, dict) and "kind" in message["extraInfo"]:
            extra = message["extraInfo"]
            text = message["message"].removeprefix("error: ")
            failures.append(Failure(extra["time"], extra["kind"], text, extra["exit_code"]))
    return min((f for f in failures if f.kind != ProcessLost.__name__), default=None)


@contextmanager
def _interrupt_as(exception: type[Exception]) -> Iterator[None]:
    """Let Ctrl-C stop the launcher as SIGTERM does: Python reports SIGINT in each process."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise exception("Ctrl-C", signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Tells one ``run.json`` of a folder from another."""
    try:
        status = (folder / RUN_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
