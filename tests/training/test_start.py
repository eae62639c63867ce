"""Starting and resuming runs: which changes of the images stop a resumed run."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from ssltool.errors import CheckpointError, UsageError
from ssltool.runs.config import RunConfig
from ssltool.runs.records import RunRecord
from ssltool.training import start


def begin(data: Path, out: Path, **options: object) -> start.Start:
    given = {"data": (str(data),), "out": str(out), "image_size": 32, "batch_size": 2, "steps": 3}
    begun = start.new_run(RunConfig.merged("jigsaw", {**given, **options}), folder=out)
    record = RunRecord.model_validate(
        {
            "ssltool": "0.1.0",
            "method": "jigsaw",
            "options": {
                **begun.config.run.model_dump(mode="json"),
                **begun.config.task.model_dump(mode="json"),
            },
            "precision": {"name": "fp32", "reason": "as asked"},
            "source": {"description": "", "fingerprint": begun.fingerprint},
            "data": asdict(begun.config.data),
            "fingerprint": {},
            "metrics": [],
            "environment": {},
        }
    )
    out.mkdir(parents=True)
    record.write(out / "run.json")
    return begun


def resume(out: Path, **options: object) -> start.Start:
    return start.resumed_run(RunConfig.merged("jigsaw", {"out": str(out), **options}), out)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "data" / f"{number}.bmp")
    return tmp_path / "data"


def test_unchanged_images_continue(data: Path, tmp_path: Path) -> None:
    begun = begin(data, tmp_path / "run")
    assert resume(tmp_path / "run").fingerprint == begun.fingerprint


def test_a_run_below_its_own_images_continues(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    begin(Path("."), Path("runs/jigsaw-1"))
    (data / "runs" / "jigsaw-1" / "figures").mkdir()
    shutil.copy(data / "1.bmp", data / "runs" / "jigsaw-1" / "figures" / "samples.png")
    assert len(resume(Path("runs/jigsaw-1")).source) == 4
    begin(Path("."), Path("runs/jigsaw-2"))
    assert len(resume(Path("runs/jigsaw-2")).source) == 4


def test_renamed_files_and_changed_files_are_told_apart(data: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "run")
    Image.new("RGB", (32, 32), (9, 9, 9)).save(data / "1.bmp")
    with pytest.raises(CheckpointError, match=r"differ in size or modification .*--content-hash"):
        resume(tmp_path / "run")
    (data / "1.bmp").rename(data / "5.bmp")
    with pytest.raises(CheckpointError, match="files were added, removed, renamed"):
        resume(tmp_path / "run")


def test_a_run_begun_with_content_hash_continues_on_a_copy(data: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "run", content_hash=True)
    for path in data.iterdir():
        os.utime(path, ns=(0, 0))
    resume(tmp_path / "run")
    resume(tmp_path / "run", content_hash=True)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(data / "1.bmp")
    with pytest.raises(CheckpointError, match="files of the same names differ in content;"):
        resume(tmp_path / "run")


def test_content_hash_is_chosen_when_a_run_begins(data: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "run")
    with pytest.raises(UsageError, match="--content-hash"):
        resume(tmp_path / "run", content_hash=True)
