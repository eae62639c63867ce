"""Where weights are looked for; imports no torch."""

from __future__ import annotations

from pathlib import Path

from ssltool.errors import UsageError

FILE_NAME = "encoder.safetensors"


def find_weights(path: Path | str) -> Path:
    """The weights file at ``path``: a file, or ``encoder.safetensors`` in a run folder.

    Raises:
        UsageError: There is no such file, or the folder holds none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    if path.is_dir():
        raise UsageError(
            f"the folder {path} holds no {FILE_NAME}; name a run folder or a weights file"
        )
    raise UsageError(f"there is no file {path}; name a run folder or a .safetensors file")
