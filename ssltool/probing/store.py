"""On-disk cache of features, memory-mapped when read back.

::

    FOLDER/KEY/
      index.json     number of rows, dimensions of each stage
      indices.i64    int64, which image of the split each row is
      0.f32, 1.f32   float32 rows of each stage, in the order of index.json

An entry appears complete or not at all. The least recently used ones are deleted when all together
exceed a limit. Probes read the files block by block, so features need not fit in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssltool.errors import DataError, DiskFullError
from ssltool.probing.features import check_finite, no_images

LIMIT = 8 * 2**30
"""Bytes of features kept."""

_INDEX = "index.json"


class StoredFeatures(NamedTuple):
    """Features read back.

    Attributes:
        stages: Name of the stage -> float32 ``[N, D]``, mapped from a file.
        indices: int64 ``[N]``, which image of the split each row is.
    """

    stages: dict[str, Tensor]
    indices: Tensor


class FeatureStore:
    """A folder of features.

    Args:
        folder: Where they are kept from one command to the next; None = in a temporary folder,
            while this lives.
    """

    def __init__(self, folder: Path | None) -> None:
        self._temporary = (
            tempfile.TemporaryDirectory(prefix="ssltool-features-") if folder is None else None
        )
        self.folder = Path(self._temporary.name) if self._temporary else Path(folder or "")

    def get(self, key: str) -> StoredFeatures | None:
        """The features under a key; None if there are none, or not whole."""
        entry = self.folder / key
        try:
            index = json.loads((entry / _INDEX).read_text(encoding="utf-8"))
            rows, dims = int(index["rows"]), dict(index["dims"])
            sizes = [rows * 8] + [rows * dim * 4 for dim in dims.values()]
            files = [entry / "indices.i64"] + [entry / f"{i}.f32" for i in range(len(dims))]
            if [file.stat().st_size for file in files] != sizes:
                return None
            os.utime(entry / _INDEX)  # used now
        except (OSError, ValueError, KeyError, TypeError):
            return None
        stages = {
            name: torch.from_file(
                str(file), shared=False, size=rows * dim, dtype=torch.float32
            ).view(rows, dim)
            for (name, dim), file in zip(dims.items(), files[1:], strict=True)
        }
        return StoredFeatures(
            stages, torch.from_file(str(files[0]), shared=False, size=rows, dtype=torch.int64)
        )

    def put(
        self, key: str, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]
    ) -> StoredFeatures:
        """Write features batch by batch and read them back.

        Args:
            key: See `cache_key`.
            batches: Name of the stage -> float32 ``[B, D]``, and the images' indices int64 ``[B]``.

        Raises:
            DataError: There are no images.
            WeightsError: A feature is NaN or infinite.
            DiskFullError: They do not fit.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        try:
            rows, dims = self._write(partial, batches)
            (partial / _INDEX).write_text(
                json.dumps({"rows": rows, "dims": dims}), encoding="utf-8"
            )
            shutil.rmtree(self.folder / key, ignore_errors=True)
            partial.rename(self.folder / key)
        except OSError as error:
            raise DiskFullError(
                f"{self.folder} cannot take the features ({error.strerror}); free some space, or "
                "name another folder with --cache"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        stored = self.get(key)
        if stored is None:
            raise DataError(
                f"{self.folder / key} was changed by somebody else meanwhile; run the command again"
            )
        if self._temporary is None:
            self._evict(key)
        return stored

    def _write(
        self, folder: Path, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]
    ) -> tuple[int, dict[str, int]]:
        dims: dict[str, int] = {}
        rows = 0
        with ExitStack() as stack:
            indices = stack.enter_context((folder / "indices.i64").open("wb"))
            files: dict[str, Any] = {}
            for stages, read in batches:
                for name, values in stages.items():
                    check_finite(name, values)
                    if name not in files:
                        files[name] = stack.enter_context((folder / f"{len(files)}.f32").open("wb"))
                        dims[name] = values.shape[1]
                    files[name].write(values.float().cpu().contiguous().numpy().data)
                indices.write(read.cpu().contiguous().numpy().data)
                rows += len(read)
        if not rows:
            raise no_images()
        return rows, dims

    def _evict(self, kept: str) -> None:
        """Delete what was not used for longest until everything fits into ``LIMIT``."""
        folders = [entry for entry in self.folder.iterdir() if (entry / _INDEX).is_file()]
        folders.sort(key=lambda entry: (entry / _INDEX).stat().st_mtime, reverse=True)
        total = 0
        for entry in folders:
            total += sum(file.stat().st_size for file in entry.iterdir())
            if total > LIMIT and entry.name != kept:
                shutil.rmtree(entry, ignore_errors=True)


def cache_key(**facts: Any) -> str:
    """A name for features made in a certain way: equal facts (of JSON kinds) give equal names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def default_folder() -> Path:
    """Where features are kept unless said otherwise: ``ssltool/features`` in the user's cache
    folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssltool" / "features"
