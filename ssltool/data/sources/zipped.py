"""`ZipSource`: the images of a zip file, as of the folder that it would be unpacked to.

The offset of each member is known from the directory at the end of the file, so members are read
in place, in any order and by any process; nothing is unpacked to disk. Members whose names lead
out of the archive are left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from io import BytesIO
from typing import BinaryIO

import numpy as np

from ssltool.data.sources.base import EncodedSource
from ssltool.data.sources.class_names import nfc, numbered
from ssltool.data.sources.fingerprints import encode, file_state, fingerprint_of
from ssltool.data.sources.formats import check_readable, is_hidden, is_image
from ssltool.data.sources.locations import existing_file, printable
from ssltool.data.sources.splits import canonical_splits
from ssltool.data.sources.strings import PackedStrings
from ssltool.errors import DataError, UnreadableImage

_LOCAL = struct.Struct("<4s5H3I2H")
"""Header before a member: magic, version, flags, method, time, date, CRC, sizes, lengths."""
_ENCRYPTED = 1
_LARGEST = 2**30  # bytes of an encoded image
_CHANGED = "its zip file has changed since it was opened"


class ZipSource(EncodedSource):
    """The images of a zip file, ordered by path; the folders of the first level are the classes.

    Args:
        path: The zip file; ``~`` is expanded.
        folder: Only what is below this folder of the archive, which counts as its root.
        shown: What the file is called in messages; its path by default.

    Raises:
        UsageError: There is no such file.
        DataError: It is no zip file, or holds no image there.
    """

    def __init__(self, path: str, folder: str = "", shown: str = "") -> None:
        self._path = existing_file(path)
        self._shown = shown or printable(self._path)
        self._prefix = _prefix(folder)
        status = os.stat(self._path)
        self._status = (status.st_size, status.st_mtime_ns)
        where = f"{self._shown}/{printable(folder)}" if self._prefix else self._shown
        left_out = Counter[str]()
        members = _images(_directory(self._path, self._shown), self._prefix, left_out)
        if not members:
            raise DataError(
                f"no images in {where}: no member there has an image's ending (.jpg, .png, .webp, "
                "...)"
            )
        names = sorted(members, key=lambda name: (nfc(name), name))
        self._names = PackedStrings(names)
        self._keep_directory([members[name] for name in names])
        self.classes, self._labels = numbered([_class_of(name) for name in names])
        self.description = f"{len(names):,} images in {where}"
        self.location = os.path.realpath(self._path) + (f"/{self._prefix}" if self._prefix else "")
        self.notes = (
            *(f"left out {what}: {count:,}" for what, count in sorted(left_out.items())),
            *self._root_note(names, where),
        )

    def _keep_directory(self, members: list[zipfile.ZipInfo]) -> None:
        """Keep where the images are in the file, as arrays: a `ZipInfo` takes half a kilobyte."""
        self._offsets = np.array([member.header_offset for member in members], np.int64)
        self._stored = np.array([member.compress_size for member in members], np.int64)
        self._sizes = np.array([member.file_size for member in members], np.int64)
        self._crcs = np.array([member.CRC for member in members], np.uint32)

    def _root_note(self, names: list[str], where: str) -> tuple[str, ...]:
        """That all images have one class because the archive holds one folder."""
        if len(self.classes) != 1 or not all(name.count("/") > 1 for name in names):
            return ()
        folder = printable(names[0].partition("/")[0])
        return (
            f"all images of {where} are below its folder {folder}; type "
            f"zip://{self._prefix}{folder}::{self._shown} for the classes inside",
        )

    def __len__(self) -> int:
        return len(self._names)

    def encoded(self, index: int) -> BinaryIO:
        data = self._bytes(index)
        check_readable(self._names[index], data[:16])
        return BytesIO(data)

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def relative_path(self, index: int) -> str:
        return nfc(self._names[index])

    def path(self, index: int) -> str:
        return f"{self._path}/{self._prefix}{self._names[index]}"

    def nbytes(self, index: int) -> int | None:
        return int(self._sizes[index])

    def content(self, index: int) -> bytes:
        return hashlib.sha256(self._bytes(index)).digest()

    def fingerprint(self, *, content: bool = False) -> str:
        if content:
            return super().fingerprint(content=True)
        indices = range(len(self))
        names = (f"{self.relative_path(i)}\0{self._class_name(i)}\0" for i in indices)
        states = [file_state(self._path), self._sizes.tobytes(), self._crcs.tobytes()]
        return fingerprint_of((encode(name) for name in names), states)

    def _bytes(self, index: int) -> bytes:
        """The bytes of a member.

        Raises:
            UnreadableImage: It is damaged, encrypted or compressed in an unusual way, or the file
                is missing or has changed.
        """
        size, stored = int(self._sizes[index]), int(self._stored[index])
        if max(size, stored) > _LARGEST:
            raise UnreadableImage("more than 1 GiB in its zip file")
        try:
            with open(self._path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                file.seek(int(self._offsets[index]))
                header = file.read(_LOCAL.size)
                if (status.st_size, status.st_mtime_ns) != self._status:
                    raise UnreadableImage(_CHANGED)
                magic, _, flags, method, *_, name, extra = _LOCAL.unpack(header)
                file.seek(name + extra, os.SEEK_CUR)
                data = file.read(stored)
        except OSError as error:
            raise UnreadableImage((error.strerror or str(error)).lower()) from error
        except struct.error as error:
            raise UnreadableImage("damaged in its zip file") from error
        if flags & _ENCRYPTED:
            raise UnreadableImage("encrypted in its zip file")
        if magic != b"PK\3\4" or len(data) < stored:
            raise UnreadableImage("damaged in its zip file")
        data = _decompressed(data, method, size)
        if len(data) != size or zlib.crc32(data) != self._crcs[index]:
            raise UnreadableImage("damaged in its zip file: its checksum differs")
        return data


def zip_splits(path: str, folder: str = "") -> dict[str, str]:
    """The splits that the folders of a zip file are, as of a folder.

    Args:
        path: The zip file.
        folder: Folder of the archive.

    Returns:
        Split -> folder of the archive; empty unless all folders with images are splits.
    """
    prefix = _prefix(folder)
    members = _images(_directory(existing_file(path), printable(path)), prefix, Counter())
    folders = list(dict.fromkeys(name.partition("/")[0] for name in members if "/" in name))
    splits = canonical_splits(folders)
    return {s: prefix + name for s, name in splits.items()} if len(splits) == len(folders) else {}


def _prefix(folder: str) -> str:
    """What the names of the members below a folder of the archive begin with."""
    return f"{folder.strip('/')}/" if folder.strip("/") else ""


def _class_of(name: str) -> str | None:
    """The first folder of a member's path; None for images beside the folders."""
    return nfc(name.partition("/")[0]) or None if "/" in name else None


def _directory(path: str, shown: str) -> list[zipfile.ZipInfo]:
    """The entries of the directory at the end of a zip file."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(f"{shown} is no readable zip file ({error}); copy it again") from error
    except OSError as error:
        raise DataError(f"cannot read {shown}: {(error.strerror or str(error)).lower()}") from error


def _images(
    members: list[zipfile.ZipInfo], prefix: str, left_out: Counter[str]
) -> dict[str, zipfile.ZipInfo]:
    """The images below a folder, by their paths below it; of one name the last, as unpacked."""
    images = dict[str, zipfile.ZipInfo]()
    for info in members:
        path = info.filename
        if info.is_dir() or not path.startswith(prefix):
            continue
        parts = path.split("/")
        if ".." in parts or path.startswith("/") or ":" in parts[0] or "\\" in path:
            left_out["members whose names lead out of the archive"] += 1
        elif any(map(is_hidden, parts)):
            left_out["hidden or system members"] += 1
        elif not is_image(path):
            left_out["members without an image's ending"] += 1
        elif stat.S_ISLNK(info.external_attr >> 16):
            left_out["links"] += 1
        else:
            name = path[len(prefix) :]
            left_out["members whose name comes again"] += name in images
            images[name] = info
    for what in [what for what, count in left_out.items() if not count]:
        del left_out[what]
    return images


def _decompressed(data: bytes, method: int, size: int) -> bytes:
    """The data of a member; no more than its stated size, and one byte, is ever made."""
    if method == zipfile.ZIP_STORED:
        return data
    if method != zipfile.ZIP_DEFLATED:
        raise UnreadableImage("compressed in its zip file by another method than deflate")
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise UnreadableImage("damaged in its zip file") from error
