"""The lock of a run folder: one run at a time writes into it.

An advisory lock of the operating system on ``.lock`` in the folder, which ends with the process
that holds it, even with ``kill -9``: a stale file is no lock. The file names its holder. It is
removed when the run ends. Reading a run needs no lock.

Between hosts the lock is as good as their file system's: NFS has it (version 4, or 3 with its lock
service) and may need a minute to notice that a host is lost. Where a file system refuses locks, a
run says so and continues.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ssltool.atomic import translated_os_errors
from ssltool.errors import UsageError

LOCK_FILE = ".lock"
_AT = 2**30  # the locked byte, on Windows; others can still read the ones before it
_TAKEN = (errno.EAGAIN, errno.EACCES)
_POLL = 0.2  # seconds between attempts

_held: set[int] = set()  # file descriptors


class FolderLock:
    """Holds a folder for this process until it is released.

    Attributes:
        folder: The folder.
        note: What to tell the user; empty where the file system has locks.
    """

    def __init__(self, folder: Path, descriptor: int, made: list[Path], note: str) -> None:
        self.folder, self.note = folder, note
        self._descriptor, self._made = descriptor, made

    @classmethod
    def take(cls, folder: Path, *, patience: float = 0.0, new: bool = False) -> FolderLock:
        """Lock a folder, which is made if it is missing.

        Args:
            folder: The folder.
            patience: Seconds to wait for a holder that is about to end.
            new: Take only a folder that is missing and made here.

        Raises:
            UsageError: Another process holds it, or it is not ``new``.
            CheckpointError: The folder cannot be made or written to.
        """
        path, note, made = folder / LOCK_FILE, "", list[Path]()
        deadline = time.monotonic() + patience
        while True:
            with translated_os_errors(path):
                descriptor = _open(folder, made, new=new)
            try:
                _lock(descriptor)
            except OSError as error:
                if error.errno in _TAKEN:
                    os.close(descriptor)
                    if time.monotonic() >= deadline:
                        raise UsageError(_in_use(folder)) from None
                    time.sleep(_POLL)
                    continue
                note = f"the file system of {folder} has no locks; start no other run in it"
            if _is(path, descriptor):  # else its last holder removed it just now
                break
            os.close(descriptor)
        _held.add(descriptor)
        lock = cls(folder, descriptor, made, note)
        try:
            with translated_os_errors(path):
                _describe_holder(descriptor)
        except BaseException:
            lock.release()
            raise
        return lock

    def release(self) -> None:
        """Let go of the folder."""
        if self._descriptor not in _held:
            return
        # Windows does not remove an open file; the next holder takes it over as it is.
        with suppress(OSError):
            (self.folder / LOCK_FILE).unlink()
        _held.discard(self._descriptor)
        os.close(self._descriptor)

    def remove_unused(self) -> None:
        """Remove the folders that were made for the lock, after its release, if they are empty."""
        with suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()


def _open(folder: Path, made: list[Path], *, new: bool) -> int:
    """Open the lock file of a folder; both are made if they are missing.

    Args:
        folder: The folder.
        made: Extended by the folders that were made, outermost first.
        new: Refuse a folder that was there.
    """
    for attempt in range(100):
        try:
            for path in [p for p in (folder, *folder.parents) if not p.is_dir()][::-1]:
                with suppress(FileExistsError):
                    path.mkdir()
                    made.append(path)
            if new and folder not in made:
                raise UsageError(f"{folder} exists; name a new folder")
            return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run removed the folder that it had made, just now
            if attempt == 99:
                raise
    raise AssertionError


def _describe_holder(descriptor: int) -> None:
    """Write into a lock file who holds it."""
    holder = {
        "pid": os.getpid(),
        "host": platform.node(),
        "started": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.truncate(descriptor, os.write(descriptor, json.dumps(holder).encode()))


def _lock(descriptor: int) -> None:
    """Lock a file at once.

    Raises:
        OSError: With `_TAKEN`, another process has locked it; else it cannot be locked.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _AT, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Not lockf: its lock ends when any part of the process closes the file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _in_use(folder: Path) -> str:
    try:
        holder = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (OSError, ValueError, LookupError, TypeError):  # it is writing it
        who = "another process"
    return f"{folder} is in use by {who}; let that run end or stop it, or type another --out"


def _close_inherited() -> None:
    """A forked process must not prolong the lock of its parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
