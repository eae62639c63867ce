"""``--devices N``: torchrun's launcher, restarts after a kill, errors of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ssltool.distributed import launcher
from ssltool.distributed.launcher import LaunchedError, write_failure
from ssltool.errors import (
    DataError,
    Interrupted,
    NonFiniteLossError,
    ProcessLost,
    SslToolError,
    UnknownNameError,
    UsageError,
)
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import available, find_options
from ssltool.runs.config import RunConfig
from ssltool.runs.resolve import resolve
from ssltool.training import launch as launching
from ssltool.training import start
from ssltool.training.launch import launch

QUIET = Console(quiet=True)


def config(out: Path, **given: Any) -> RunConfig:
    return RunConfig.merged("jigsaw", {"out": out, **given})


def started(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> list[list[str]]:
    """Let the processes of each start do what `ends` says, and keep what they were asked."""
    asked: list[list[str]] = []

    def run(devices: int, words: list[str], interrupted: str) -> str:
        del devices, interrupted
        asked.append(words)
        died: str = ends[len(asked) - 1]()
        return died

    monkeypatch.setattr(launching, "start_processes", run)
    return asked


def done() -> str:
    return ""


def killed() -> str:
    return "process 1 was killed by signal 9"


def test_the_processes_get_the_options_that_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = started(monkeypatch, done)
    given = config(
        tmp_path / "a", lr=0.1, data=["x", "y"], grid=3, gap=False, track="tensorboard,mlflow"
    )
    assert launch(given, 2, ["--quiet"], console=QUIET) == tmp_path / "a"
    words = " ".join(asked[0])
    assert words.startswith("pretrain jigsaw --data x --data y --lr 0.1")
    for part in (
        "--grid 3",
        "--no-gap",
        "--track tensorboard,mlflow",
        f"--out {tmp_path / 'a'}",
        "--quiet",
    ):
        assert part in words
    assert "--steps" not in words


@pytest.mark.parametrize("name", list(available()))
def test_words_of_a_command_give_the_same_configuration(name: str) -> None:
    """What `RunConfig.arguments` writes, the command line reads back."""
    from ssltool.cli.pretrain import build

    for preset in (None, *find_options(name).presets):
        wanted = RunConfig.merged(name, {"data": ("a b", "c")}, preset)
        typed: dict[str, Any] = {}
        command = build(name)
        context = command.make_context(name, wanted.arguments())
        typed = {k: v for k, v in context.params.items() if v not in (None, [])}
        assert RunConfig.merged(name, typed) == wanted


def test_a_killed_process_restarts_the_run_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def began() -> str:
        out.mkdir(exist_ok=True)
        (out / "run.json").write_text("{}")
        return killed()

    asked = started(monkeypatch, killed, began, done)
    assert launch(config(out, lr=0.1), 2, console=QUIET) == out
    assert ["--resume" in words for words in asked] == [False, False, True]
    assert asked[1] == asked[0]
    assert asked[2] == ["pretrain", "jigsaw", "--out", str(out), "--resume"]


def test_an_old_run_is_not_taken_for_the_one_that_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text("{}")
    asked = started(monkeypatch, killed, done)
    launch(config(tmp_path), 2, overwrite=True, console=QUIET)
    assert [("--resume" in words, "--overwrite" in words) for words in asked] == [(False, True)] * 2


def test_restarts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = started(monkeypatch, *[killed] * 3)
    with pytest.raises(
        SslToolError,
        match=r"killed by signal 9, after 2 restarts; .* type ssltool .* --resume",
    ):
        launch(config(tmp_path / "run", max_restarts=2), 2, console=QUIET)
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
def test_the_first_error_that_a_process_wrote_down_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: SslToolError
) -> None:
    for rank, raised in enumerate([ProcessLost("lost"), error, DataError("later")]):
        place = tmp_path / "attempt_0" / str(rank) / "error.json"
        place.parent.mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(place))
        write_failure(raised)
    failure = launcher._first_failure(tmp_path)
    assert failure is not None
    raised = LaunchedError(failure)
    assert (str(raised), raised.exit_code) == (str(error), error.exit_code)


def test_a_batch_is_shared_by_whoever_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve(config(tmp_path, batch_size=12), DataInfo(100, 32))
    options = resolved.run.model_copy(update={"devices": 2})
    run = SimpleNamespace(folder=tmp_path, config=SimpleNamespace(run=options))
    for processes, batch in ((1, 24), (2, 12), (3, 8), (12, 2)):
        monkeypatch.setattr(start, "world_size", lambda n=processes: n)
        assert start._batch_per_process(run) == batch
    monkeypatch.setattr(start, "world_size", lambda: 5)
    with pytest.raises(
        UsageError,
        match=r"5 processes cannot share .* start 1 or 2 or 3 or 4 or 6 or 8 or 12 processes",
    ):
        start._batch_per_process(run)


def test_torchruns_restarts_need_a_named_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    named = config(tmp_path / "run")

    def begun(asked: RunConfig, restarts: int = 0, overwrite: bool = False) -> bool:
        return start.was_begun(asked, resume=False, overwrite=overwrite, restarts=restarts)

    assert not begun(named)
    with pytest.raises(UsageError, match="--out"):
        begun(RunConfig.merged("jigsaw", {}))
    with pytest.raises(UsageError, match="--overwrite"):
        begun(named, overwrite=True)
    assert not begun(named, restarts=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert begun(named, restarts=1)


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
    flags = (
        "--data demo:48 --image-size 32 --batch-size 4 --steps 10 --checkpoint-every 4 "
        "--log-every 2 --workers 0"
    )
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
@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        pytest.param(
            'errors.DataError("the disk of process 1 went away")',
            1,
            "error: the disk of process 1 went away",
            marks=pytest.mark.ci,
        ),
        ('ZeroDivisionError("a fault")', 1, "error: a process failed; to resume"),
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_launcher_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = command(out, "--steps", "10000", "--workers", "1")
    until(out / "checkpoints" / "step-0000004", process)
    family = descendants(process.pid)
    assert len(family) >= 4  # two ranks, a worker each
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while alive := [pid for pid in family if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
    assert (out / "checkpoints").is_dir()


def descendants(pid: int) -> set[int]:
    """Process ids of all children of a process, their children included."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(status.parent.name))
    family, todo = set(), [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        family |= set(children)
        todo += children
    return family
