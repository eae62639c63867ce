"""``--devices N``: run the same pretraining in N processes of this machine, and start again when
one of them is killed.

torch's elastic launcher, the one behind ``torchrun``, starts the processes and stops them together.
A folder for the time of the run carries what was asked for to them and the result, or the error,
back; see `ssltool.training.worker`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console

from ssltool import errors
from ssltool.errors import Interrupted, SslToolError
from ssltool.methods.registry import find_method
from ssltool.runs import checkpoint
from ssltool.runs import folder as runs
from ssltool.runs.config import Choice, validated
from ssltool.training.request import Request

_PATIENCE = "120"  # seconds given to processes to save and leave after a signal


class Failure(NamedTuple):
    """Why a process ended, as it wrote it down itself.

    Attributes:
        time: When, in seconds since 1970.
        kind: Name of the error's class; ``""`` for a fault of the program.
        message: The error's line, or the traceback.
    """

    time: float
    kind: str
    message: str


def launch(request: Request, devices: int, console: Console) -> dict[str, Any]:
    """Run a request in several processes.

    Args:
        request: What to do; its choice names the run folder.
        devices: How many processes.
        console: Where remarks go.

    Returns:
        What `ssltool.training.pretrain.pretrain` returns.

    Raises:
        SslToolError: As the processes raised it; or they were killed more often than
            ``--max-restarts`` allows.
    """
    out = request.choice.run.out
    before = _stamp(out)
    with tempfile.TemporaryDirectory(prefix="ssltool-") as name:
        for restarts in range(request.choice.run.max_restarts + 1):
            folder = Path(name) / str(restarts)
            folder.mkdir()
            request.write(folder)
            died = _run(folder, devices)
            if not died and (folder / "result.json").is_file():
                result: dict[str, Any] = json.loads(
                    (folder / "result.json").read_text(encoding="utf-8")
                )
                return result
            failure = _first(folder)
            if failure is not None and failure.kind:
                raise _rebuilt(failure)
            if restarts < request.choice.run.max_restarts:
                request, where = _next(request, before)
                console.print(
                    f"{died or 'the processes ended'}; starting again {where}", soft_wrap=True
                )
    if failure is not None:
        print(failure.message, file=sys.stderr)
    again = f", after {restarts} restarts" if restarts else ""
    raise SslToolError(
        f"{died or 'the processes ended without a result'}{again}; "
        f"type 'ssltool pretrain {request.choice.method} --out {out} --resume' to go on from the "
        "last checkpoint"
    )


def _run(folder: Path, devices: int) -> str:
    """Start the processes and wait for their end; what happened to the first that was killed, or
    ``""``.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed."):
            logging.getLogger(name).setLevel(
                logging.CRITICAL + 1
            )  # its report of an error is as long as a page
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # started again by `launch`, which knows an error from a death
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="SIGTERM,SIGHUP,SIGQUIT",
    )
    try:
        with _interrupt_as(SignalException):
            elastic_launch(config, sys.executable)("-m", "ssltool.training.worker", str(folder))
    except ChildFailedError as error:
        # The launcher itself ends the others with SIGTERM.
        ends = [(rank, -failure.exitcode) for rank, failure in sorted(error.failures.items())]
        killed = [
            f"process {rank} was killed by signal {end}"
            for rank, end in ends
            if end > 0 and end != signal.SIGTERM
        ]
        return killed[0] if killed else "a process failed"
    except SignalException as error:
        if _first(folder) is None:
            raise Interrupted(
                "stopped before a step was taken, so no checkpoint was saved"
            ) from error
    return ""


@contextmanager
def _interrupt_as(exception: type[Exception]) -> Iterator[None]:
    """Let Ctrl-C stop the launcher as SIGTERM does, so that the processes get a signal that Python
    does not report.
    """

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


def _first(folder: Path) -> Failure | None:
    """The first error that a process wrote down; one that merely lost the others counts for
    nothing.
    """
    found = [
        Failure(**json.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("error-*.json")
    ]
    return min((one for one in found if one.kind != errors.ProcessLost.__name__), default=None)


def _rebuilt(failure: Failure) -> SslToolError:
    """The error that a process raised."""
    kind = getattr(errors, failure.kind, SslToolError)
    error: SslToolError = kind.__new__(
        kind, failure.message
    )  # without a constructor that wants the parts
    return error


def _stamp(out: Path | None) -> tuple[int, int] | None:
    """Tells one ``run.json`` of a folder from another."""
    try:
        status = (out / runs.RUN_FILE).stat() if out else None
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status else None


def _next(request: Request, before: tuple[int, int] | None) -> tuple[Request, str]:
    """What to do after a death: go on with the run that was begun, or begin again. And in words."""
    choice, out = request.choice, request.choice.run.out
    if out is None or (not request.resume and _stamp(out) in (None, before)):
        return request, "from the beginning"
    newest = checkpoint.newest(out)
    known = only_folder(choice, out)
    where = f"from {newest}" if newest else "from the beginning"
    return replace(request, choice=known, resume=True, overwrite=False), where


def only_folder(choice: Choice, out: Path) -> Choice:
    """The choice that says where a run is and leaves everything else to its ``run.json``."""
    kept = {"out": out, "max_restarts": choice.run.max_restarts}
    return validated(choice.method, find_method(choice.method), kept)
