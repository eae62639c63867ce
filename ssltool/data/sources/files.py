"""`FileSource`: images given file by file, as with ``--image``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ssltool.data.opening import dimensions
from ssltool.data.sources.base import FilePerImageSource
from ssltool.data.sources.class_names import nfc
from ssltool.data.sources.formats import check_file
from ssltool.data.values import read_values
from ssltool.errors import DataError, UnreadableImage, UsageError


class FileSource(FilePerImageSource):
    """The given files, in order, without classes.

    Args:
        paths: At least one; ``~`` is expanded.
        as_they_are: Whether their values are read as they are stored.

    Raises:
        UsageError: A path is no file.
        DataError: A file cannot be read as an image; a file given by name is not skipped.
    """

    def __init__(self, paths: Sequence[Path], *, as_they_are: bool = False) -> None:
        self._paths = [path.expanduser() for path in paths]
        for path in self._paths:
            if not path.is_file():
                raise UsageError(
                    f"--image {path} is no file; name an image, or a folder of them with --data"
                )
            try:
                check_file(str(path))
                read_values(str(path)) if as_they_are else dimensions(str(path))
            except UnreadableImage as error:
                raise DataError(f"--image {path} cannot be read as an image: {error}") from error
        self._absolute = [os.path.realpath(path) for path in self._paths]
        self.location = os.path.commonpath([os.path.dirname(path) for path in self._absolute])
        names = [path.name for path in self._paths]
        self.description = (
            ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more images"
        )

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> int | None:
        del index
        return None

    def relative_path(self, index: int) -> str:
        return nfc(os.path.relpath(self._absolute[index], self.location).replace(os.sep, "/"))

    def path(self, index: int) -> str:
        return str(self._paths[index])
