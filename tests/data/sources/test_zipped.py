"""Zip files of images: the same images as of the folder they were packed from, and safe."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.errors import DataError, UnreadableImage, UsageError

NAMES = ("b/2.png", "a/1.png", "a/é.png", "3.png")


def folder(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20 + number, 16), 60).convert("RGB").save(root / name)
    return root


def packed(root: Path, path: Path, method: int = zipfile.ZIP_DEFLATED, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for each in sorted(root.rglob("*"), reverse=True):
            file.write(each, f"{below}{each.relative_to(root).as_posix()}")
    return path


def contents(source: Source) -> list[object]:
    return [
        (source.relative_path(i), source.label(i), source.read(i, 16).tobytes(), source.content(i))
        for i in range(len(source))
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_is_the_folder_it_was_packed_from(tmp_path: Path, method: int) -> None:
    root = folder(tmp_path / "x")
    path = packed(root, tmp_path / "x.ZIP", method)
    source = open_source(path)
    assert contents(source) == contents(open_source(root))
    assert source.classes == ("a", "b")
    assert source.fingerprint() == open_source(path).fingerprint()
    assert source.fingerprint(content=True) == open_source(root).fingerprint(content=True)


def test_a_folder_of_a_zip_file(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", ("b/2.png", "a/1.png"))
    path = packed(root, tmp_path / "x.zip", below="photos/")
    whole = open_source(path)
    assert whole.classes == ("photos",)
    assert f"type zip://photos::{path} for the classes inside" in whole.notes[-1]
    assert contents(open_source(f"zip://photos::{path}")) == contents(open_source(root))
    with pytest.raises(DataError, match=r"no images in .*/nothing"):
        open_source(f"zip://nothing::{path}")
    with pytest.raises(UsageError, match=r"names no zip file; type zip://MEMBER::FILE\.zip"):
        open_source("zip://photos")


def test_splits_of_a_zip_file(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", ("train/a/1.png", "train/b/2.png", "test/a/3.png"))
    path = packed(root, tmp_path / "x.zip")
    assert contents(open_source(path, split="train")) == contents(open_source(root, split="train"))
    assert contents(open_source(path)) == contents(open_source(root))


def test_no_member_leads_out_of_the_archive(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", ("1.png",))
    path = tmp_path / "x.zip"
    names = ("../1.png", "/1.png", "a/../../1.png", "c:/1.png", "..\\1.png", "a\\1.png")
    with zipfile.ZipFile(path, "w") as file:
        for name in (*names, "ok/1.png", ".hidden/1.png", "__MACOSX/1.png", "x.txt"):
            file.writestr(name, (root / "1.png").read_bytes())
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    source = open_source(path)
    # Python's writer has replaced none of the separators.
    assert [source.relative_path(i) for i in range(len(source))] == ["ok/1.png"]
    assert any("lead out of the archive: 6" in note for note in source.notes)
    assert any("links: 1" in note for note in source.notes)


def test_damage_is_an_unreadable_image(tmp_path: Path) -> None:
    path = packed(folder(tmp_path / "x"), tmp_path / "x.zip", zipfile.ZIP_STORED)
    source = open_source(path)
    data, status = bytearray(path.read_bytes()), path.stat()
    where = data.index(b"IHDR")
    data[where + 60] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    failed = []
    for index in range(len(source)):
        try:
            source.read(index, 8)
        except UnreadableImage as error:
            failed.append(str(error))
    assert failed == ["damaged in its zip file: its checksum differs"]
    path.touch()
    with pytest.raises(UnreadableImage, match="its zip file has changed"):
        source.read(0, 8)
    path.unlink()
    with pytest.raises(UnreadableImage, match="no such file"):
        source.read(0, 8)


def test_no_more_is_unpacked_than_a_member_states(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", bytes(2**22))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = np.uint32(1000).tobytes()  # says 1000 bytes
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(UnreadableImage, match="its checksum differs"):
        open_source(tmp_path / "x.zip").read(0, 8)


@pytest.mark.parametrize(
    ("method", "reason"),
    [(zipfile.ZIP_BZIP2, "by another method than deflate"), (None, "no readable zip file")],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, method: int | None, reason: str) -> None:
    root, path = folder(tmp_path / "x"), tmp_path / "x.zip"
    if method is None:
        path.write_bytes(b"PK no zip file")
    else:
        packed(root, path, method)
    with pytest.raises(DataError, match=reason):
        open_source(path).read(0, 8)
