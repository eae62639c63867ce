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
from ssltool.runs.records import Extension, RunRecord
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


def saved(out: Path, step: int) -> None:
    (out / "checkpoints" / f"step-{step:07d}").mkdir(parents=True)


def test_a_run_is_given_a_new_length(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    begin(data, out)
    saved(out, 2)
    assert resume(out).extended == resume(out, steps=3).extended == ()
    longer = resume(out, steps=9)
    assert longer.config.run.steps == 9
    assert longer.config.run.warmup == resume(out).config.run.warmup
    assert longer.extended == (Extension(at=2, before=3, steps=9),)
    assert resume(out, epochs=4).config.run.steps == 8  # 4 images in batches of 2
    assert resume(out, steps=2).config.run.steps == 2
    with pytest.raises(UsageError, match=r"has taken 2 of 3 steps, more than the 1 that"):
        resume(out, steps=1)
    with pytest.raises(UsageError, match="--lr"):
        resume(out, steps=9, lr=0.5)


def test_every_new_length_is_kept(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    begin(data, out)
    record = RunRecord.read(out / "run.json")
    first = Extension(at=0, before=2, steps=3)
    record.model_copy(update={"extended": (first,)}).write(out / "run.json")
    assert resume(out).extended == (first,)
    assert resume(out, steps=4).extended == (first, Extension(at=0, before=3, steps=4))
