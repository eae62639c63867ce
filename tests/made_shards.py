"""Tar shards of small images for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shards import ShardSource
from ssltool.errors import SslToolError


def png(value: int, side: int = 12) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return path


def numbered(folder: Path, counts: list[int]) -> ShardSource:
    """Shards of red images, numbered through."""
    paths, number = [], 0
    for index, count in enumerate(counts):
        members = {}
        for _ in range(count):
            members |= {
                f"{number:06d}.png": png(number % 256),
                f"{number:06d}.cls": str(number % 3).encode(),
            }
            number += 1
        paths.append(str(tar(folder / f"train-{index:04d}.tar", members)))
    return ShardSource(paths, str(folder))


def reds(source: ShardSource) -> list[int]:
    return [int(source.read(index, 8)[0, 0, 0]) for index in range(len(source))]


def fails(kind: type[SslToolError], spec: Path | str) -> str:
    with pytest.raises(kind) as caught:
        open_source([str(spec)])
    text = str(caught.value)
    assert text.isprintable()
    return text
