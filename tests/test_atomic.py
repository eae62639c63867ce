"""Files and folders are written whole, with the permissions of the umask."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssltool import atomic
from ssltool.atomic import atomic_file, atomic_folder, remove_folder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def write_weights(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)


def write_text(path: Path) -> None:
    path.write_text("x")


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("write", [write_weights, write_text])
@pytest.mark.parametrize("before", [None, 0o600, 0o666])
def test_permissions_follow_the_umask(
    tmp_path: Path, mode: int, write: object, before: int | None
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.touch()
        path.chmod(before)
    with atomic_file(path) as temporary:
        write(temporary)  # type: ignore[operator]
    with atomic_folder(tmp_path / "folder") as folder:
        write(folder / "file")  # type: ignore[operator]
    assert permissions(path) == permissions(tmp_path / "folder" / "file") == mode


def test_a_folder_is_removed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    remove_folder(tmp_path / "a")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(tmp_path / "b")
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def named(prefix: str, pid: int, host: str | None = None) -> str:
    own = atomic.temporary_suffix().removesuffix(f"-{os.getpid()}.tmp")
    return f"{prefix}{own if host is None else '.' + host}-{pid}.tmp"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = ended_process()
    for name in (named(".a.", dead), named(".a", 2**70)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / named(".a.file", dead)).touch()
    old = tmp_path / named(".a", dead, "elsewhere")
    old.touch()
    os.utime(old, (0, 0))
    kept = {
        named(".a", os.getpid()),
        named(".a", dead, "another"),  # of another machine, written to just now
        named(".b", dead),
        ".a.note",
    }
    for name in kept:
        (tmp_path / name).touch()
    atomic.remove_abandoned(tmp_path, ".a")
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_folder_that_is_written_to_is_not_old(tmp_path: Path) -> None:
    folder = tmp_path / named(".a", 1, "elsewhere")
    folder.mkdir()
    (folder / "growing").touch()
    os.utime(folder, (0, 0))
    atomic.remove_abandoned(tmp_path, ".a")
    assert folder.exists()
    os.utime(folder / "growing", (0, 0))
    os.utime(folder, (0, 0))
    atomic.remove_abandoned(tmp_path, ".a")
    assert not folder.exists()


def test_writing_a_file_again_removes_what_a_killed_write_left(tmp_path: Path) -> None:
    left = tmp_path / named(".features.npz", ended_process())
    left.touch()
    with atomic.atomic_file(tmp_path / "features.npz") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]


def test_a_link_is_removed_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ".x.1.tmp").symlink_to(tmp_path / "data")
    atomic.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
