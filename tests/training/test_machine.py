"""Resuming with the threads a run began with, and what is said of another machine."""

from __future__ import annotations

import io

import pytest
import torch
from made_runs import run_record
from rich.console import Console

from ssltool.runs.environment import environment
from ssltool.runs.records import RunRecord
from ssltool.training.machine import as_it_began

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def resumed(record: RunRecord | None) -> tuple[int, str]:
    """Threads inside the block, and what was printed."""
    console = Console(record=True, width=1000, file=io.StringIO())
    with as_it_began(record, CPU, console):
        threads = torch.get_num_threads()
    return threads, console.export_text()


def test_the_threads_are_those_the_run_began_with() -> None:
    before = torch.get_num_threads()
    record = run_record(environment={**environment(CPU), "threads": str(before + 1)})
    assert resumed(record) == (before + 1, "")
    assert torch.get_num_threads() == before
    assert resumed(None) == (before, "")


def test_what_differs_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # chosen by the user
    before = torch.get_num_threads()
    record = run_record(
        environment={**environment(CPU), "machine": "z80", "torch": "0.1", "threads": "77"}
    )
    threads, printed = resumed(record)
    assert threads == before
    assert printed.count("\n") == 1
    assert "began with machine z80, torch 0.1, threads 77, now machine " in printed
    assert "bytes may differ" in printed


def test_a_record_that_does_not_say_is_no_difference() -> None:
    record = run_record().model_copy(update={"environment": {}})
    assert resumed(record) == (torch.get_num_threads(), "")
