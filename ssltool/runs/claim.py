"""Claim the folder of a run that begins or continues; imports no torch."""

from __future__ import annotations

from pathlib import Path

from ssltool.errors import CheckpointError, UsageError
from ssltool.runs.lock import LOCK_FILE, FolderLock
from ssltool.runs.records import RUN_FILE


def claim_new(out: Path | None, method: str, *, overwrite: bool) -> FolderLock:
    """Lock the folder of a new run: ``out``, or the next free ``runs/METHOD-N``.

    Runs that start at the same time get a folder each, or an error.

    Raises:
        UsageError: ``out`` is a file, in use, or not empty and may not be overwritten.
        CheckpointError: No folder can be made here.
    """
    if out is None:
        return _claim_next(method)
    _refuse_file(out)
    lock = FolderLock.take(out)
    try:
        check_new(out, overwrite=overwrite)
    except BaseException:
        lock.release()
        raise
    return lock


def check_new(out: Path, *, overwrite: bool) -> None:
    """Make sure that a new run may be written to a folder.

    Raises:
        UsageError: It is a file, or not empty and may not be overwritten.
    """
    if not out.exists():
        return
    _refuse_file(out)
    if _is_empty(out):
        return
    if not overwrite:
        raise UsageError(
            f"--out {out} is not empty; type --resume to continue it, --overwrite to replace it, "
            "or another folder"
        )
    if not (out / RUN_FILE).is_file():
        raise UsageError(
            f"--out {out} is not empty and not a run folder, so --overwrite leaves it alone; name "
            "another folder"
        )


def claim_to_resume(out: Path | None, method: str, patience: float = 0.0) -> FolderLock:
    """Lock the run to continue, see `folder_to_resume`.

    Args:
        out: Its folder, or None.
        method: Name of the method.
        patience: Seconds to wait for a process of the same run that is about to end.

    Raises:
        UsageError: There is nothing to continue, or another process continues it.
    """
    folder = folder_to_resume(out, method)
    lock = FolderLock.take(folder, patience=patience)
    try:
        folder_to_resume(folder, method)  # it may have been replaced just now
    except BaseException:
        lock.release()
        raise
    return lock


def folder_to_resume(out: Path | None, method: str) -> Path:
    """The run to continue: ``out``, or the newest ``runs/METHOD-N``.

    Raises:
        UsageError: There is nothing to continue.
    """
    if out is None:
        numbers = [n for n in _numbers(method) if (_numbered(method, n) / RUN_FILE).is_file()]
        if not numbers:
            raise UsageError(
                f"--resume: no runs/{method}-N here; type --out RUN, or omit --resume to start a "
                "run"
            )
        out = _numbered(method, max(numbers))
    if not (out / RUN_FILE).is_file():
        raise UsageError(f"--resume: {out} holds no run; omit --resume to start one there")
    return out


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a new folder")


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed run left before it began."""
    return all(path.suffix == ".tmp" or path.name == LOCK_FILE for path in folder.iterdir())


def _claim_next(method: str) -> FolderLock:
    """Make and lock the next free ``runs/METHOD-N``."""
    number = 0
    while True:
        number = max([number, *_numbers(method)]) + 1
        try:
            lock = FolderLock.take(_numbered(method, number), new=True)
        except UsageError:
            continue  # another run was faster
        except CheckpointError as error:
            raise CheckpointError(f"{error}; type --out RUN") from error
        if _is_empty(lock.folder):
            return lock
        lock.release()


def _numbered(method: str, number: int) -> Path:
    return Path("runs") / f"{method}-{number}"


def _numbers(method: str) -> list[int]:
    tails = [path.name.removeprefix(f"{method}-") for path in Path("runs").glob(f"{method}-*")]
    return [int(tail) for tail in tails if tail.isdecimal()]
