"""The lock of a run folder: held by one process, and by nothing that the process left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ssltool.errors import CheckpointError, UsageError
from ssltool.runs.lock import LOCK_FILE, FolderLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def forked(act: object) -> int:
    """Run a function in a forked process, which then waits to be killed."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        act()  # type: ignore[operator]
        os.write(done, b".")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_holder_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    child = forked(lambda: FolderLock.take(tmp_path))
    with pytest.raises(UsageError, match=rf"in use by process {child} on .*; let that run end"):
        FolderLock.take(tmp_path)
    kill(child)
    assert (tmp_path / LOCK_FILE).is_file()
    lock = FolderLock.take(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_does_not_prolong_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    child = forked(lambda: None)
    os.close(lock._descriptor)  # as the end of this process would
    FolderLock.take(tmp_path).release()
    kill(child)


def test_a_worker_does_not_end_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    kill(forked(lock.release))
    with pytest.raises(UsageError, match="in use"):
        FolderLock.take(tmp_path)
    lock.release()


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        FolderLock.take(tmp_path)
        time.sleep(0.3)
        os._exit(0)
    while not (tmp_path / LOCK_FILE).exists():
        time.sleep(0.01)
    FolderLock.take(tmp_path, patience=60).release()
    os.waitpid(child, 0)


def test_a_damaged_lock_file_locks_nothing_and_hides_no_holder(tmp_path: Path) -> None:
    for text in ("", "[]", "{", "7", '{"pid": 1}'):
        (tmp_path / LOCK_FILE).write_text(text)
        lock = FolderLock.take(tmp_path)
        (tmp_path / LOCK_FILE).write_text(text)
        with pytest.raises(UsageError, match="in use by another process"):
            FolderLock.take(tmp_path)
        lock.release()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    lock = FolderLock.take(tmp_path)
    assert "has no locks; start no other run in it" in lock.note
    lock.release()


@pytest.mark.parametrize("kind", ["file", "below a file", "lock is a folder", "dangling"])
def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    if kind == "lock is a folder":
        (folder / LOCK_FILE).mkdir(parents=True)
    elif kind == "dangling":
        folder.mkdir()
        (folder / LOCK_FILE).symlink_to(tmp_path / "no" / "such")
    else:
        folder.write_text("")
        folder = folder if kind == "file" else folder / "run"
    with pytest.raises(CheckpointError, match="cannot write"):
        FolderLock.take(folder)
