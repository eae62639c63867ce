"""Write a file or a folder so that a reader, or a crash, never sees half of it.

Everything is written under a temporary name beside its place, flushed to the disk and renamed. A
kill at any moment leaves the old version or the new one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ssltool.errors import CheckpointError, DiskFullError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces ``path``, on failure it is
    removed.

    Raises:
        DiskFullError: No space is left; an earlier ``path`` is intact.
        CheckpointError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with translated_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with translated_os_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
            _flush(temporary)
            os.rename(temporary, path)
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left below ``folder``."""
    for path in list(folder.rglob(".*.tmp")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def translated_os_errors(path: Path) -> Iterator[None]:
    """Turn what the system and the safetensors library raise while writing into our one-line
    errors.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors reports a failed write as its own exception with the system's words in it, not
        # as an OSError.
        full = getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left" in str(error)
        if full:
            raise DiskFullError(
                f"no space left on the disk while writing {path}; free some and run again"
            ) from error
        raise CheckpointError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        ) from error


def _flush(path: Path) -> None:
    """Ask the system to put a file's or a folder's entries on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
