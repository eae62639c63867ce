"""On-disk cache of features, memory-mapped when read back.

::

    FOLDER/KEY/
      index.json     number of rows, dimensions of each stage, the images that could not be read
      indices.i64    int64, which image of the split each row is
      digests.i64    int64, a hash of the pixels of each row's image
      0.f32, 1.f32   float32 rows of each stage, in the order of index.json

An entry appears complete or not at all. The least recently used ones are deleted when all together
exceed a limit. What a killed command had begun is deleted when the next one opens the folder.
Probes read the files block by block, so features need not fit in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor

from ssltool import atomic
from ssltool.distributed.collectives import from_all, is_main
from ssltool.distributed.parts import gathered, send_to_main
from ssltool.documents import DocumentError, read_json, validated
from ssltool.errors import DataError, DiskFullError
from ssltool.probing.features import check_finite, no_images

LIMIT = 8 * 2**30
"""Bytes of features kept."""

_INDEX = "index.json"
_PARTIAL = ".partial-"
_BLOCK = 2**24  # bytes sent to the first process at a time
_LARGEST_INDEX = 2**30  # bytes: it lists the images that could not be read


class _Index(BaseModel):
    """``index.json`` of an entry.

    Attributes:
        rows: Number of images.
        dims: Name of the stage -> its dimensions, in the order of the files.
        unreadable: Index in the split -> reason of the images that could not be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(ge=1)
    dims: dict[str, Annotated[int, Field(ge=1)]] = Field(min_length=1)
    unreadable: dict[Annotated[int, Field(ge=0)], str]


class StoredFeatures(NamedTuple):
    """Features read back.

    Attributes:
        stages: Name of the stage -> float32 ``[N, D]``, mapped from a file.
        indices: int64 ``[N]``, which image of the split each row is.
        digests: int64 ``[N]``, a hash of the pixels as they were read: equal for equal images.
        unreadable: Index in the split -> reason of the images that could not be read.
    """

    stages: dict[str, Tensor]
    indices: Tensor
    digests: Tensor
    unreadable: dict[int, str]


class FeatureStore:
    """A folder of features.

    Args:
        folder: Where they are kept from one command to the next; None = in a temporary folder,
            while this lives.
    """

    def __init__(self, folder: Path | None) -> None:
        self._temporary = _temporary_folder() if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else Path(folder or "")
        self._used: set[str] = set()  # keys that this command reads, which are not evicted

    @classmethod
    def open(cls, folder: Path | None, console: Console) -> FeatureStore:
        """A store in a folder that is made if need be, and cleared of what killed commands left; a
        temporary one, said on the console, if there is no folder or it cannot be written to.
        """
        if folder is None:
            console.print("features are not kept: no home folder; name a folder with --cache")
            return cls(None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic.remove_abandoned(folder, _PARTIAL, suffix="")
            with tempfile.TemporaryFile(dir=folder):
                return cls(folder)
        except OSError as error:
            console.print(
                f"features are not kept: {folder} cannot be written to "
                f"({(error.strerror or str(error)).lower()}); name another folder with --cache"
            )
            return cls(None)

    def get(self, key: str) -> StoredFeatures | None:
        """The features under a key; None if there are none, or not whole."""
        entry = self.folder / key
        try:
            index = validated(_Index, read_json(entry / _INDEX, _LARGEST_INDEX))
            rows, dims = index.rows, index.dims
            sizes = [rows * 8] * 2 + [rows * dim * 4 for dim in dims.values()]
            files = [entry / "indices.i64", entry / "digests.i64"]
            files += [entry / f"{i}.f32" for i in range(len(dims))]
            if [file.stat().st_size for file in files] != sizes:
                return None
            os.utime(entry / _INDEX)  # used now
        except (OSError, DocumentError):
            return None
        indices, digests = (
            torch.from_file(str(file), shared=False, size=rows, dtype=torch.int64)
            for file in files[:2]
        )
        self._used.add(key)
        stages = {
            name: torch.from_file(
                str(file), shared=False, size=rows * dim, dtype=torch.float32
            ).view(rows, dim)
            for (name, dim), file in zip(dims.items(), files[2:], strict=True)
        }
        if bool((indices < 0).any()):
            return None
        return StoredFeatures(stages, indices, digests, index.unreadable)

    @contextmanager
    def writer(self, key: str) -> Iterator[FeatureWriter]:
        """Write the features of a key batch by batch; they are there when the block has ended
        without an error. Of several processes each writes the features of its part of the images,
        and the first one stores all.

        Args:
            key: See `cache_key`.

        Raises:
            DataError: There are no images.
            WeightsError: A feature is NaN or infinite.
            DiskFullError: They do not fit.
        """
        partial: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            suffix = atomic.temporary_suffix()
            partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, suffix=suffix, dir=self.folder))
            with FeatureWriter(partial) as writer:
                yield writer
                writer.join()
            if not is_main():
                return
            writer.finish()
            shutil.rmtree(self.folder / key, ignore_errors=True)
            partial.rename(self.folder / key)
            self._used.add(key)
        except OSError as error:
            raise DiskFullError(
                f"{self.folder} cannot take the features ({error.strerror}); free some space, or "
                "name another folder with --cache"
            ) from error
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
        if self._temporary is None:
            self._evict()

    def put(
        self, key: str, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]
    ) -> StoredFeatures:
        """Write features batch by batch and read them back.

        Args:
            key: See `cache_key`.
            batches: Name of the stage -> float32 ``[B, D]``, and the images' indices int64 ``[B]``.

        Raises:
            SslToolError: As `writer`.
        """
        with self.writer(key) as writer:
            for stages, indices in batches:
                writer.add_images(indices)
                writer.add(stages)
        return self.read(key)

    def read(self, key: str) -> StoredFeatures:
        """The features under a key, written before.

        Raises:
            DataError: They are there no more.
        """
        stored = self.get(key)
        if stored is None:
            raise DataError(
                f"{self.folder / key} was changed by somebody else meanwhile; run the command again"
            )
        return stored

    def _evict(self) -> None:
        """Delete what was not used for longest, but not by this command, until everything fits
        into ``LIMIT``, together with what other commands are writing.
        """
        folders = [entry for entry in self.folder.iterdir() if (entry / _INDEX).is_file()]
        folders.sort(key=lambda entry: (entry / _INDEX).stat().st_mtime, reverse=True)
        total = sum(map(_size, self.folder.glob(f"{_PARTIAL}*")))
        for entry in folders:
            total += _size(entry)
            if total > LIMIT and entry.name not in self._used:
                shutil.rmtree(entry, ignore_errors=True)


class FeatureWriter:
    """Files of one entry, appended batch by batch."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._dims: dict[str, int] = {}
        self._images = 0
        self.unreadable: dict[int, str] = {}
        """Index in the split -> reason of the images that could not be read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add_images(self, indices: Tensor, digests: Tensor | None = None) -> None:
        """Append images, whose features may follow later.

        Args:
            indices: int64 ``[B]``, which image of the split each row is.
            digests: int64 ``[B]``, see `StoredFeatures`; zeros if not given.
        """
        self._append("indices.i64", indices)
        self._append("digests.i64", torch.zeros_like(indices) if digests is None else digests)
        self._images += len(indices)

    def add(self, stages: Mapping[str, Tensor]) -> None:
        """Append the features of the next images, in their order.

        Args:
            stages: Name of the stage -> float ``[B, D]``.

        Raises:
            WeightsError: A feature is NaN or infinite.
        """
        for number, (name, values) in enumerate(stages.items()):
            check_finite(name, values)
            self._dims[name] = values.shape[1]
            self._append(f"{number}.f32", values.float())

    def join(self) -> None:
        """In the first process append what the others wrote, in the order of their ranks."""
        self._dims = next(filter(None, from_all(self._dims)), {})
        for name in ("indices.i64", "digests.i64", *(f"{i}.f32" for i in range(len(self._dims)))):
            send_to_main(self._written(name), partial(self._append, name))
        parts = gathered((self._images, list(self.unreadable.items())))
        self._images = sum(images for images, _ in parts)
        self.unreadable = {index: reason for _, own in parts for index, reason in own}

    def finish(self) -> None:
        """Write the index, which makes the entry valid.

        Raises:
            DataError: There are no images.
        """
        if not self._images:
            raise no_images()
        index = _Index(rows=self._images, dims=self._dims, unreadable=self.unreadable)
        (self._folder / _INDEX).write_text(json.dumps(index.model_dump()), encoding="utf-8")

    def _append(self, name: str, values: Tensor) -> None:
        if name not in self._files:
            self._files[name] = self._stack.enter_context((self._folder / name).open("w+b"))
        self._files[name].write(values.cpu().contiguous().numpy().data)

    def _written(self, name: str) -> Iterator[Tensor]:
        """What was appended to a file, as uint8 ``[n]``."""
        if file := self._files.get(name):
            file.seek(0)
            while data := file.read(_BLOCK):
                yield torch.frombuffer(bytearray(data), dtype=torch.uint8)


def cache_key(**facts: Any) -> str:
    """A name for features made in a certain way: equal facts (of JSON kinds) give equal names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def default_folder() -> Path | None:
    """Where features are kept unless said otherwise: ``ssltool/features`` in the user's cache
    folder; None for a user without a home.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return cache / "ssltool" / "features"


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for as long as it is referred to; those of killed commands are removed.

    Raises:
        DiskFullError: There is no place for one.
    """
    prefix = "ssltool-features-"
    try:
        atomic.remove_abandoned(Path(tempfile.gettempdir()), prefix)
        return tempfile.TemporaryDirectory(prefix=prefix, suffix=atomic.temporary_suffix())
    except OSError as error:
        raise DiskFullError(
            f"features need a temporary folder ({(error.strerror or str(error)).lower()}); set "
            "TMPDIR to one that can be written to"
        ) from error


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, of those that are still there."""
    total = 0
    with suppress(OSError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total
