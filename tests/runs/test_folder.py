from __future__ import annotations

import threading
from pathlib import Path

import pytest
from made_runs import made_run, run_record

from ssltool.errors import CheckpointError, DataError, UsageError
from ssltool.methods.base import DataInfo
from ssltool.runs.config import RunConfig, resolve
from ssltool.runs.folder import Run, folder_to_resume, new_folder, remove_unused


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_runs_that_start_together_get_a_folder_each() -> None:
    found: list[Path] = []
    start = threading.Barrier(8)

    def begin() -> None:
        start.wait()
        found.append(new_folder(None, "jigsaw", False))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {str(path) for path in found} == {f"runs/jigsaw-{n}" for n in range(1, 9)}
    assert all(path.is_dir() for path in found)


def test_numbers_go_on_after_the_largest() -> None:
    for name in ("jigsaw-2", "jigsaw-9", "jigsaw-old", "npid-30"):
        Path("runs", name).mkdir(parents=True)
    assert new_folder(None, "jigsaw", False) == Path("runs/jigsaw-10")


def test_a_file_named_runs_is_said() -> None:
    Path("runs").write_text("")
    with pytest.raises(CheckpointError, match="type --out RUN"):
        new_folder(None, "jigsaw", False)


def test_a_folder_that_was_never_written_to_is_removed_and_not_resumed() -> None:
    made_run(Path("runs/jigsaw-1"))
    unused = new_folder(None, "jigsaw", False)
    assert folder_to_resume(None, "jigsaw") == Path("runs/jigsaw-1")
    for _ in range(2):
        remove_unused(unused)
        assert not unused.exists()
    remove_unused(Path("runs/jigsaw-1"))
    assert Path("runs/jigsaw-1/run.json").is_file()
    new_folder(None, "npid", False)
    with pytest.raises(UsageError, match="no runs/npid-N here"):
        folder_to_resume(None, "npid")


def test_images_that_are_gone_are_named_with_what_to_type(tmp_path: Path) -> None:
    def opened(*data: str) -> Run:
        config = resolve(RunConfig.merged("jigsaw", {"data": data}), DataInfo(100, 64))
        return Run(Path("r"), run_record(), config)

    assert len(opened("demo:3").open_images("")) == 3
    with pytest.raises(UsageError, match=r"gone: no folder at /nope; name images with --data$"):
        opened("/nope").open_images("name images with --data")
    with pytest.raises(UsageError, match=r"on a dataset object; restore them$"):
        opened("object: 16 images in memory").open_images("restore them")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"are gone: .*empty.*; restore them$"):
        opened(f"{tmp_path}/empty").open_images("restore them")
