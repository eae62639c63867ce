from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import made_run, run_record

from ssltool.errors import CheckpointError, DataError, UsageError
from ssltool.methods.options import DataInfo
from ssltool.runs.claim import claim_new, claim_to_resume, folder_to_resume
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run, clear
from ssltool.runs.lock import FolderLock
from ssltool.runs.resolve import resolve


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def begin(out: Path | None = None, method: str = "jigsaw", overwrite: bool = False) -> FolderLock:
    return claim_new(out, method, overwrite=overwrite)


def end(lock: FolderLock) -> None:
    lock.release()
    lock.remove_unused()


def begin_together(outs: list[Path | None]) -> tuple[list[FolderLock], list[str]]:
    """Start runs at the same moment: who got a folder, and what the others were told."""
    found: list[FolderLock] = []
    refused: list[str] = []
    start = threading.Barrier(len(outs))

    def run(out: Path | None) -> None:
        start.wait()
        try:
            found.append(begin(out))
        except UsageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, refused


@pytest.mark.parametrize(("out", "most"), [(None, 8), (Path("a/b"), 5), (Path("runs/jigsaw-1"), 5)])
def test_runs_that_start_together_never_share_a_folder(out: Path | None, most: int) -> None:
    """With a folder of their own choice, with a new one, and with the one that others choose."""
    for _ in range(10):
        found, refused = begin_together([None, out] * 4)
        assert 4 <= len({lock.folder for lock in found}) == len(found) <= most
        assert len(found) + len(refused) == 8
        assert all("is in use by " in text for text in refused)
        for lock in found:
            end(lock)
        assert not [path for path in Path().rglob("*") if path.is_file()]


def test_runs_that_start_and_fail_together_never_share_a_folder() -> None:
    """Locks come and go, and with them the folder that they were taken in."""
    inside, most, failures = [0], [0], list[BaseException]()

    def run() -> None:
        try:
            for _ in range(100):
                try:
                    lock = begin(Path("a/b"))
                except UsageError:
                    continue
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                end(lock)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert most == [1]


def test_numbers_go_on_after_the_largest() -> None:
    for name in ("jigsaw-2", "jigsaw-9", "jigsaw-old", "npid-30"):
        Path("runs", name).mkdir(parents=True)
    assert begin().folder == Path("runs/jigsaw-10")


def test_a_file_named_runs_is_said() -> None:
    Path("runs").write_text("")
    with pytest.raises(CheckpointError, match="type --out RUN"):
        begin()


def test_a_folder_that_was_never_written_to_is_removed_and_not_resumed() -> None:
    made_run(Path("runs/jigsaw-1"))
    unused = begin()
    assert folder_to_resume(None, "jigsaw") == Path("runs/jigsaw-1")
    for _ in range(2):
        end(unused)
        assert not unused.folder.exists()
    end(claim_to_resume(None, "jigsaw"))
    assert Path("runs/jigsaw-1/run.json").is_file()
    assert not Path("runs/jigsaw-1/.lock").exists()
    begin(method="npid")
    with pytest.raises(UsageError, match="no runs/npid-N here"):
        folder_to_resume(None, "npid")


def test_an_empty_folder_of_the_user_stays() -> None:
    Path("out").mkdir()
    end(begin(Path("out")))
    assert list(Path("out").iterdir()) == []


def test_what_a_killed_run_left_before_it_began_is_no_run() -> None:
    Path("out").mkdir()
    for name in (".lock", ".run.json.12.tmp"):
        Path("out", name).write_text("{")
    end(begin(Path("out")))


RUN = Path("runs/jigsaw-1")


@pytest.mark.parametrize(
    "again",
    [
        lambda: begin(RUN),
        lambda: begin(RUN, overwrite=True),
        lambda: claim_to_resume(RUN, "jigsaw"),
        lambda: claim_to_resume(None, "jigsaw"),
    ],
)
def test_a_run_that_is_in_use_is_left_alone(again: Callable[[], FolderLock]) -> None:
    made_run(RUN)
    lock = claim_to_resume(None, "jigsaw")
    with pytest.raises(UsageError, match=rf"is in use by process {os.getpid()} on .* since 20"):
        again()
    end(lock)
    end(begin(lock.folder, overwrite=True))


def test_a_refused_folder_is_not_held() -> None:
    made_run(Path("run"))
    Path("photos").mkdir()
    Path("photos/a.png").write_text("")
    for folder, overwrite, words in (
        (Path("run"), False, "--resume to continue it"),
        (Path("photos"), True, "not a run folder, so --overwrite leaves it alone"),
    ):
        for _ in range(2):
            with pytest.raises(UsageError, match=words):
                begin(folder, overwrite=overwrite)
        assert not (folder / ".lock").exists()


def test_a_run_is_replaced_below_its_lock() -> None:
    made_run(Path("run"))
    Path("run/link").symlink_to(Path("run/figures").resolve())
    lock = begin(Path("run"), overwrite=True)
    clear(lock.folder)
    assert [path.name for path in lock.folder.iterdir()] == [".lock"]
    with pytest.raises(UsageError, match="in use"):
        begin(Path("run"))


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
