"""Trackers: what their own readers find in the stores of a run, resumed or not."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from ssltool.errors import UsageError
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain
from ssltool.training.tracking.tensorboard import TensorBoard
from ssltool.training.tracking.tracker import TrackedRun
from ssltool.training.tracking.trackers import Trackers

GIVEN = {
    "data": ("demo:8",),
    "image_size": 32,
    "batch_size": 4,
    "steps": 4,
    "checkpoint_every": 2,
    "log_every": 1,
    "workers": 0,
    "precision": "fp32",
    "backbone": "resnet20",
}


def events(folder: Path):  # type: ignore[no-untyped-def]  # tensorboard has no types
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def mlflow_run(folder: Path) -> Any:
    """The one run in a store, with its history by metric and its artifacts."""
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("ssltool").experiment_id])
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    figures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    return run, history, figures


def logged(content: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format behind a header of 7 bytes: in blocks of 32 KiB, pieces
    of records with checksum, length and kind (whole, first, middle, last).
    """
    at, record = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        if kind == 0:
            break
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def wandb_records(folder: Path) -> tuple[set[str], dict[int, dict[str, Any]], dict[str, Any]]:
    """Ids of the runs in the offline files, values by step, and the configuration."""
    from wandb.proto import wandb_internal_pb2

    ids, steps, config = set(), {}, {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in logged(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            if kind == "history":
                found = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                assert found["_step"] not in steps or "loss" not in steps[found["_step"]]
                steps.setdefault(found["_step"], {}).update(found)
    return ids, steps, config


def take(out: Path, track: str, resume: bool = False, console: Console | None = None) -> None:
    given = {"out": out, "track": track, **({} if resume else GIVEN)}
    quiet = Console(quiet=True)
    pretrain(RunConfig.merged("jigsaw", given), resume=resume, console=console or quiet)


def killed_after(out: Path, step: int) -> None:
    for folder in (out / "checkpoints").iterdir():
        if folder.name > f"step-{step:07d}":
            shutil.rmtree(folder)


def lines_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def killed_and_resumed(folder: Path, track: str) -> tuple[Path, list[dict[str, float]]]:
    """A run that was killed after its second step, resumed; and its metrics before that."""
    out = folder / "run"
    take(out, track)
    first = lines_of(out)
    killed_after(out, 2)
    take(out, track, resume=True)
    return out, first


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection to another machine; no home with a login."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> Any:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_resumed_run_hides_what_a_killed_one_wrote_later(tmp_path: Path) -> None:
    for start, steps in ((0, (1, 2, 3, 4)), (2, (3, 4))):
        board = TensorBoard(TrackedRun(tmp_path, {}, {"loss": 2.5}, start, "", -1))
        for step in steps:
            board.line({"loss": step + start, "knn": 0.5}, step)
        board.close(finished=True)
    found = events(tmp_path / "tensorboard")
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 5),
        (4, 6),
    ]
    assert {event.value for event in found.Scalars("loss/chance")} == {2.5}
    assert "knn/chance" not in found.Tags()["scalars"]


@pytest.mark.slow
def test_tensorboard_has_the_numbers_and_images(tmp_path: Path) -> None:
    out = tmp_path / "run"
    take(out, "tensorboard")
    found = events(out / "tensorboard")
    assert [event.step for event in found.Scalars("accuracy")] == [1, 2, 3, 4]
    assert set(found.Tags()["images"]) == {"task", "samples", "predictions"}
    with Image.open(out / "figures" / "predictions-0000004.png") as image:
        shown = found.Images("predictions")[-1]
        assert (shown.step, shown.width, shown.height) == (4, *image.size)


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_mlflow_has_a_resumed_run_once(tmp_path: Path) -> None:
    out, first = killed_and_resumed(tmp_path, "mlflow")
    run, history, figures = mlflow_run(out)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert (run.data.params["backbone"], run.data.params["batch_size"]) == ("resnet20", "4")
    assert history["loss"] == [(line["step"], line["loss"]) for line in first]
    assert set(history) == set(first[0]) - {"step"} | set(first[-1]) - {"step"}
    drawn = {f"figures/{path.name}" for path in (out / "figures").iterdir()}
    assert figures == drawn


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_wandb_has_a_resumed_run_once(tmp_path: Path) -> None:
    out, first = killed_and_resumed(tmp_path, "wandb")
    ids, steps, config = wandb_records(out)
    assert len(ids) == 1
    assert {step: v["loss"] for step, v in steps.items() if "loss" in v} == {
        int(line["step"]): line["loss"] for line in first
    }
    assert {"task.path", "samples.path"} <= steps[0].keys()
    assert "predictions.path" in steps[4]
    assert config["backbone"] == "resnet20"


class Told:
    """A tracker that remembers, and may fail at a step."""

    def __init__(self, fails: int = -1) -> None:
        self.steps: list[int] = []
        self.fails, self.finished = fails, False

    def line(self, metrics: Any, step: int) -> None:
        if step == self.fails:
            raise OSError("the disk of the\nserver is full")
        self.steps.append(step)

    def figure(self, name: str, path: Path, step: int) -> None:
        self.steps.append(-step)

    def close(self, *, finished: bool) -> None:
        self.finished = finished


def test_a_tracker_that_fails_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, working = Told(fails=2), Told()
    told = {"mlflow": failing, "wandb": working}
    monkeypatch.setattr(
        Trackers, "_begin", lambda self, name, run: self._trackers.update({name: told[name]})
    )
    monkeypatch.setattr("ssltool.training.writer.draw_start", lambda *_, **__: {})
    monkeypatch.setattr("ssltool.training.writer.draw_snapshot", lambda *_, **__: {})
    with (tmp_path / "log").open("w") as file:
        take(tmp_path / "run", "mlflow,wandb", console=Console(file=file, width=1000))
    warnings = [line for line in (tmp_path / "log").read_text().splitlines() if "warning" in line]
    assert warnings == [
        "warning: no more tracking by mlflow: OSError: the disk of the server is full"
    ]
    assert (failing.steps, working.steps) == ([1], [1, 2, 3, 4])
    assert (failing.finished, working.finished) == (False, True)


def test_steps_that_are_taken_again_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, ids = Told(), []

    def begin(self: Trackers, name: str, run: TrackedRun) -> None:
        self._trackers[name] = told
        ids.append(run.id)

    monkeypatch.setattr(Trackers, "_begin", begin)

    def warn(what: str, error: Exception) -> None:
        raise AssertionError(what) from error

    for start, steps in (
        (0, (1, 2, 3)),
        (2, (3, 4)),
    ):  # killed after step 3
        trackers = Trackers(("mlflow",), tmp_path, {}, {}, start, warn)
        trackers.figure("a", tmp_path, start)
        for step in steps:
            trackers.line({"step": step, "loss": 1.0})
    assert told.steps == [0, 1, 2, 3, 4]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    (tmp_path / "tracking.json").write_text("[")
    Trackers(("mlflow",), tmp_path, {}, {}, 4, warn)
    assert len(set(ids)) == 2


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_without_its_package_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"pip install 'ssltool\[{name}\]'"):
        take(tmp_path / "run", name)
    assert not (tmp_path / "run").exists()
