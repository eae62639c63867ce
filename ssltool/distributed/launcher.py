"""Torchrun's own launcher: a command in several processes of this machine, each error one line.

``torch.distributed.run`` starts the processes and stops them together. Each leaves the line of its
error where the launcher looks for it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssltool.cores import available_cores
from ssltool.distributed.signals import hangup_signals, raising
from ssltool.errors import Interrupted, ProcessLost, SslToolError

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
    # Renamed when complete: the launcher may stop this process at any moment, and reads the file.
    unfinished = Path(f"{path}.tmp")
    unfinished.write_text(json.dumps(document), encoding="utf-8")
    unfinished.replace(path)


def launch_once(devices: int, words: Sequence[str]) -> None:
    """Run ``ssltool WORDS`` in several processes.

    Raises:
        LaunchedError: What the first process raised.
        SslToolError: A process was killed.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP came.
    """
    if died := start_processes(devices, words, "interrupted"):
        raise SslToolError(f"{died}; type the same command again")


def start_processes(devices: int, words: Sequence[str], interrupted: str) -> str:
    """Run ``ssltool WORDS`` in several processes; how the first was killed, or ``""``.

    Args:
        devices: How many processes.
        words: Of the command.
        interrupted: The error's line after a signal.

    Raises:
        LaunchedError: What the first process raised.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP came.
    """
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
            # Ctrl-C stops the launcher as SIGTERM does: Python reports SIGINT in each process.
            with raising(signal.SIGINT, lambda: SignalException("Ctrl-C", signal.SIGTERM)):
                run(parse_args(arguments))  # type: ignore[no-untyped-call]
        except (ChildFailedError, SignalException) as error:
            first = _first_failure(Path(logs))
            if first is not None:
                raise LaunchedError(first) from error
            if isinstance(error, SignalException):
                raise Interrupted(interrupted) from error
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
