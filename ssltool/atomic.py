"""Write a file or a folder so that a reader, or a crash, never sees half of it.

Everything is written under a temporary name beside its place, flushed to the disk and renamed. A
kill at any moment leaves the old version or the new one. Permissions are those that the umask
gives, whatever a library wrote the file with.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssltool.errors import CheckpointError, DiskFullError, UsageError

_DAY = 24 * 3600.0


def refuse_input(to: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace a file that is read, or the weights of a run.

    Args:
        to: A file to write.
        inputs: Files to read; those that are not there do not matter.

    Raises:
        UsageError: It is one of them.
    """
    if not to.is_file():
        return
    if any(path.is_file() and path.samefile(to) for path in map(Path.expanduser, inputs)):
        raise UsageError(f"--to {to} is a file that is read; name another")
    named_as_weights = to.name.startswith("encoder") and to.suffix == ".safetensors"
    if named_as_weights and (to.parent / "run.json").is_file():
        raise UsageError(f"--to {to} holds weights of a run; name another")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces ``path``, on failure it is
    removed.

    Raises:
        DiskFullError: No space is left; an earlier ``path`` is intact.
        CheckpointError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}{temporary_suffix()}")
    try:
        with translated_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent, f".{path.name}.")
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            _set_mode(temporary, mode)
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes ``path``, which must not exist yet.

    Raises:
        DiskFullError: No space is left; nothing else in the parent folder was touched.
        CheckpointError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}{temporary_suffix()}")
    try:
        with translated_os_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            mode = temporary.stat().st_mode & 0o666
            for file in temporary.iterdir():
                _set_mode(file, mode)
                _flush(file)
            _flush(temporary)
            os.rename(temporary, path)
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder; a kill at any moment leaves the whole folder, or leftovers.

    Raises:
        CheckpointError: It cannot be removed.
    """
    temporary = path.with_name(f".{path.name}{temporary_suffix()}")
    with translated_os_errors(path):
        os.rename(path, temporary)
        shutil.rmtree(temporary)


def temporary_suffix() -> str:
    """End of the name of a temporary file or folder, which says whose it is: this process's."""
    return f".{_host()}-{os.getpid()}.tmp"


def remove_abandoned(folder: Path, prefix: str, suffix: str = ".tmp") -> None:
    """Remove temporary files and folders directly in ``folder`` whose process was killed.

    Those that do not say whose they are, or are of another machine's process, are removed a day
    after they were last written to.

    Args:
        folder: Where they are.
        prefix: Start of their names, see `temporary_suffix` for the end.
        suffix: End of their names.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix)]
    for name in names:
        if name.endswith(suffix) and _is_abandoned(folder / name):
            _remove(folder / name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left below ``folder``."""
    for path in list(folder.rglob(".*.tmp")):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _host() -> str:
    return re.sub(r"\W", "", platform.node())[:16]


def _is_abandoned(path: Path) -> bool:
    owner = re.fullmatch(r".*\.(\w*)-(\d+)\.tmp", path.name, re.DOTALL)
    if owner and owner[1] == _host() and os.name == "posix" and not _is_running(int(owner[2])):
        return True
    try:
        newest = max(each.stat().st_mtime for each in (path, *path.glob("*")))
    except OSError:  # it is being removed, or is another user's
        return False
    return newest < time.time() - _DAY


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def translated_os_errors(path: Path) -> Iterator[None]:
    """Turn what the system and the safetensors library raise while writing into our one-line
    errors.
    """
    try:
        yield
    except Exception as error:
        # safetensors reports a failed write as its own exception with the system's words in it, not
        # as an OSError.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        full = getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or any(words in str(error) for words in ("No space left", "quota exceeded"))
        if full:
            raise DiskFullError(
                f"no space left on the disk while writing {path}; free some and run again"
            ) from error
        raise CheckpointError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        ) from error


def _set_mode(path: Path, mode: int) -> None:
    """Give a file the permissions that it should have: safetensors makes it its owner's alone."""
    if path.stat().st_mode & 0o777 != mode & 0o777:  # not every file system can change them
        path.chmod(mode & 0o777)


def _flush(path: Path) -> None:
    """Ask the system to put a file's or a folder's entries on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
