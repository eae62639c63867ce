"""The best encoder of a run: which one it is, and that interrupts do not change it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors import safe_open

from ssltool.encoders.files import find_weights
from ssltool.encoders.weights import read_metadata
from ssltool.errors import Interrupted, UsageError
from ssltool.probing.online import OnlineKNN
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run, best_weights
from ssltool.training import writer
from ssltool.training.pretrain import RunSummary, pretrain
from ssltool.training.trainer import Trainer


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the slowest part of so short a run."""
    monkeypatch.setattr(writer, "draw_snapshot", lambda *_, **__: {})
    monkeypatch.setattr(writer, "draw_start", lambda *_, **__: {})


QUIET = Console(quiet=True)
BASE = {
    "data": ("demo:16",),
    "image_size": 32,
    "batch_size": 4,
    "steps": 6,
    "checkpoint_every": 3,
    "keep": 5,
    "backbone": "resnet20",
    "log_every": 1,
    "workers": 0,
    "precision": "fp32",
    "probe_data": ("demo:20",),
    "probe_every": 1,
}


def run(out: Path, resume: bool = False, method: str = "jigsaw", **changes: Any) -> RunSummary:
    given = {"out": out, **({} if resume else BASE), **changes}
    return pretrain(RunConfig.merged(method, given), resume=resume, console=QUIET)


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Accuracy by step, in place of measuring it."""
    given: dict[int, float] = {}
    monkeypatch.setattr(
        OnlineKNN, "accuracy", lambda _, encoder, metadata: given[metadata.training.steps]
    )
    return given


def best_bytes(out: Path) -> bytes:
    return (out / "encoder-best.safetensors").read_bytes()


def interrupted(out: Path, stop: int, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Begin a run that a signal stops after a step."""
    steps = Trainer.steps

    def until(trainer: Trainer) -> Any:
        for report in steps(trainer):
            if report.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "steps", until)
        with pytest.raises(Interrupted):
            run(out, **changes)


def killed_after(out: Path, step: int) -> None:
    """As if the run was killed before it saved another checkpoint."""
    for folder in (out / "checkpoints").iterdir():
        if folder.name > f"step-{step:07d}":
            shutil.rmtree(folder)


def test_the_earliest_of_the_best_is_kept_and_said(
    tmp_path: Path, accuracies: dict[int, float]
) -> None:
    accuracies |= {1: 0.1, 2: 0.4, 3: 0.2, 4: 0.4, 5: 0.3, 6: 0.3}
    summary = run(tmp_path / "run")
    assert summary.best is not None
    assert (summary.best.step, summary.best.knn) == (2, 0.4)
    shown = "\n".join(summary.learned())
    assert "encoder-best.safetensors: kNN accuracy 40.0% after 2 steps" in shown
    assert "no test set" in shown
    assert json.loads(summary.model_dump_json())["best"]["step"] == 2
    best, newest = (read_metadata(tmp_path / "run" / f) for f in ("encoder-best.safetensors", ""))
    assert best.training is not None and newest.training is not None  # noqa: PT018
    assert (best.training.steps, best.training.knn) == (2, 0.4)
    assert (newest.training.steps, newest.training.knn) == (6, None)
    assert find_weights(tmp_path / "run").name == "encoder.safetensors"


@pytest.mark.slow
def test_the_best_encoder_is_the_network_of_its_step(
    tmp_path: Path, accuracies: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies |= {step: 0.5 if step == 4 else 0.1 for step in range(1, 7)}
    run(tmp_path / "whole")
    interrupted(tmp_path / "four", 4, monkeypatch)  # its newest encoder is that of step 4
    opened = [
        safe_open(path, "np")
        for path in (
            tmp_path / "whole" / "encoder-best.safetensors",
            tmp_path / "four" / "encoder.safetensors",
        )
    ]
    names = list(opened[0].keys())
    assert names == list(opened[1].keys())
    assert all((opened[0].get_tensor(n) == opened[1].get_tensor(n)).all() for n in names)


@pytest.mark.slow
@pytest.mark.ci
def test_a_resumed_run_keeps_the_same_best_encoder(
    tmp_path: Path, accuracies: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies |= {1: 0.1, 2: 0.4, 3: 0.2, 4: 0.45, 5: 0.3, 6: 0.3}
    whole = tmp_path / "whole"
    run(whole)
    for stop in (3, 4):  # 4: the best step is the one that was interrupted
        out = tmp_path / f"stopped-{stop}"
        interrupted(out, stop, monkeypatch)
        run(out, resume=True)
        assert best_bytes(out) == best_bytes(whole)
        assert best_weights(out).step == 4  # type: ignore[union-attr]
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert {line["step"]: line["knn"] for line in lines} == accuracies


@pytest.mark.slow
def test_what_was_best_after_the_checkpoint_resumed_from_is_forgotten(
    tmp_path: Path, accuracies: dict[int, float]
) -> None:
    accuracies |= {1: 0.1, 2: 0.4, 3: 0.2, 4: 0.9, 5: 0.3, 6: 0.3}
    out = tmp_path / "run"
    run(out)
    assert best_weights(out).step == 4  # type: ignore[union-attr]
    killed_after(out, 3)
    accuracies |= {4: 0.3}  # the steps after it are others now
    run(out, resume=True)
    assert best_weights(out).step == 2  # type: ignore[union-attr]
    killed_after(out, 0)
    accuracies |= dict.fromkeys(range(1, 7), 0.0)
    run(out, resume=True)
    assert best_weights(out).step == 1  # type: ignore[union-attr]


@pytest.mark.slow
def test_accuracies_on_other_images_begin_a_new_search(
    tmp_path: Path, accuracies: dict[int, float]
) -> None:
    accuracies |= dict(zip(range(1, 7), (0.1, 0.9, 0.2, 0.3, 0.4, 0.35), strict=True))
    out = tmp_path / "run"
    run(out)
    killed_after(out, 3)
    run(out, resume=True, probe_data=("demo:30",))
    assert best_weights(out).step == 5  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_projection_of_npid_is_kept_with_it(
    tmp_path: Path, accuracies: dict[int, float]
) -> None:
    accuracies |= dict(zip(range(1, 7), (0.1, 0.9, 0.2, 0.3, 0.4, 0.35), strict=True))
    out = tmp_path / "run"
    run(out, method="npid")
    names = ("encoder-best.safetensors", "encoder-best.projection.safetensors")
    before = [(out / name).read_bytes() for name in names]
    killed_after(out, 3)
    for name in names:
        (out / name).unlink()
    run(out, resume=True, method="npid")
    assert [(out / name).read_bytes() for name in names] == before


def test_a_head_belongs_to_the_newest_encoder(tmp_path: Path, accuracies: dict[int, float]) -> None:
    accuracies |= {1: 0.5}
    run(tmp_path / "run", steps=1)
    assert Run.open_newest(tmp_path / "run" / "encoder.safetensors").folder == tmp_path / "run"
    with pytest.raises(UsageError, match=r"encoder\.safetensors; type"):
        Run.open_newest(tmp_path / "run" / "encoder-best.safetensors")
