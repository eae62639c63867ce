"""``--devices N``: what the command does with processes that end, and whole commands whose
processes are killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssltool.errors import (
    Interrupted,
    NonFiniteLossError,
    SslToolError,
    UnknownNameError,
    UsageError,
)
from ssltool.methods.registry import find_method
from ssltool.runs.config import Choice, combine
from ssltool.training import launch as launcher
from ssltool.training import start as opening
from ssltool.training import worker
from ssltool.training.launch import launch
from ssltool.training.request import Request

JIGSAW = find_method("jigsaw")


def choice(out: Path, **given: Any) -> Choice:
    return combine("jigsaw", JIGSAW, {"out": out, **given})


def started(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> list[Request]:
    """Let the processes of each start do what `ends` says, and note what they were asked."""
    asked: list[Request] = []

    def run(folder: Path, devices: int) -> str:
        del devices
        asked.append(Request.read(folder))
        died: str = ends[len(asked) - 1](folder)
        return died

    monkeypatch.setattr(launcher, "_run", run)
    return asked


def done(folder: Path) -> str:
    (folder / "result.json").write_text('{"step": 7}')
    return ""


def killed(folder: Path) -> str:
    worker._note(folder, "ProcessLost", "another process of the run has ended")
    return "process 1 was killed by signal 9"


def test_a_request_travels_with_what_was_typed(tmp_path: Path) -> None:
    request = Request(
        choice(tmp_path / "a", lr=0.1, data=["x", "y"], grid=3), resume=True, quiet=True
    )
    request.write(tmp_path)
    again = Request.read(tmp_path)
    assert again == request
    assert again.choice.run.model_fields_set == {"out", "lr", "data"}
    assert again.choice.task.model_fields_set == {"grid"}


def test_a_killed_process_restarts_the_run_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def began(folder: Path) -> str:
        out.mkdir(exist_ok=True)
        (out / "run.json").write_text("{}")
        return killed(folder)

    asked = started(monkeypatch, killed, began, done)
    result = launch(Request(choice(out, lr=0.1)), 2, Console(quiet=True))
    assert result == {"step": 7}
    assert [request.resume for request in asked] == [False, False, True]
    assert asked[1] == asked[0]
    assert asked[2].choice.run.model_fields_set == {
        "out",
        "max_restarts",
    }  # the rest is in its run.json


def test_an_old_run_is_not_taken_for_the_one_that_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text("{}")
    asked = started(monkeypatch, killed, done)
    launch(Request(choice(tmp_path), overwrite=True), 2, Console(quiet=True))
    assert [(request.resume, request.overwrite) for request in asked] == [(False, True)] * 2


def test_restarts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = started(monkeypatch, *[killed] * 3)
    with pytest.raises(
        SslToolError, match=r"killed by signal 9, after 2 restarts; type .* --resume"
    ):
        launch(Request(choice(tmp_path / "run", max_restarts=2)), 2, Console(quiet=True))
    assert len(asked) == 3


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no such thing"),
        Interrupted("stopped"),
        NonFiniteLossError("nan"),
        UnknownNameError("stage", "x", "yz"),
    ],
)
def test_an_error_is_raised_as_the_first_process_raised_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: SslToolError
) -> None:
    def failed(folder: Path) -> str:
        for number, (kind, text) in enumerate(
            [("ProcessLost", "lost"), (type(error).__name__, str(error))]
        ):
            monkeypatch.setenv("RANK", str(number))
            worker._note(folder, kind, text)
        return "a process failed"

    asked = started(monkeypatch, failed)
    with pytest.raises(type(error)) as raised:
        launch(Request(choice(tmp_path / "run")), 2, Console(quiet=True))
    assert (str(raised.value), raised.value.exit_code) == (str(error), error.exit_code)
    assert len(asked) == 1  # an error would come again


def test_a_batch_is_shared_by_whoever_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = choice(tmp_path, batch_size=12, devices=2).run
    for processes, batch in ((1, 24), (2, 12), (3, 8), (12, 2)):
        monkeypatch.setattr(opening, "world_size", lambda n=processes: n)
        assert opening._shared(begun, tmp_path) == {"batch_size": batch}
    monkeypatch.setattr(opening, "world_size", lambda: 5)
    with pytest.raises(
        UsageError,
        match=r"5 processes cannot share .* start 1 or 2 or 3 or 4 or 6 or 8 or 12 processes",
    ):
        opening._shared(begun, tmp_path)


def test_torchruns_restarts_need_a_named_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    request = Request(choice(tmp_path / "run"))
    assert opening.to_continue(request, restarts=0) is None
    with pytest.raises(UsageError, match="--out"):
        opening.to_continue(Request(combine("jigsaw", JIGSAW, {})), restarts=0)
    with pytest.raises(UsageError, match="--overwrite"):
        opening.to_continue(Request(request.choice, overwrite=True), restarts=0)
    assert opening.to_continue(request, restarts=1) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert opening.to_continue(request, restarts=1) == tmp_path / "run"


BREAKS = """
import os
if os.environ.get("RANK") == "1":
    from ssltool import errors
    from ssltool.training import loop
    train = loop.train
    def breaks(*arguments):
        for report in train(*arguments):
            if report.step == 3:
                raise {error}
            yield report
    loop.train = breaks
"""


def command(out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    flags = "--data demo:48 --image-size 32 --batch-size 4 --steps 10 --checkpoint-every 4 --log-every 2 --workers 0"
    words = f"pretrain jigsaw {flags} --precision fp32 --devices 2 --out {out}".split()
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "ssltool", *words, *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )


def kill(parent: int, number: int) -> None:
    """Kill one of a command's processes."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            child = int(status.read_text().rpartition(")")[2].split()[1]) == parent
            variables = (status.parent / "environ").read_text().split("\0") if child else []
        except OSError:
            continue
        if f"RANK={number}" in variables:
            os.kill(int(status.parent.name), signal.SIGKILL)


def until(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_run_whose_processes_are_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert command(whole).wait() == 0
    process = command(cut)
    until(cut / "run.json", process)  # before there is a checkpoint
    kill(process.pid, 1)
    until(cut / "checkpoints" / "step-0000004", process)
    kill(process.pid, 0)
    shown = process.communicate()[1]
    assert process.returncode == 0, shown
    assert shown.count("starting again") == 2, shown
    assert "Traceback" not in shown
    for file in (
        "encoder.safetensors",
        *(f"checkpoints/step-0000010/{n}.safetensors" for n in ("model", "optimizer")),
    ):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()
    lines = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert lines == [2, 4, 6, 8, 10]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (
            'errors.DataError("the disk of process 1 went away")',
            1,
            "error: the disk of process 1 went away",
        ),
        ('ZeroDivisionError("a fault")', 1, "error: a process failed; type"),
    ],
)
def test_an_error_in_one_process_is_one_line(
    tmp_path: Path, error: str, code: int, last: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKS.format(error=error))
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    process = command(tmp_path / "run", "--max-restarts", "0", PYTHONPATH=paths)
    printed, shown = process.communicate()
    assert process.returncode == code
    assert shown.splitlines()[-1].startswith(last), shown
    assert shown.count("Traceback") == (
        "ZeroDivision" in error
    )  # a fault of the program is shown, once
    assert printed == ""
