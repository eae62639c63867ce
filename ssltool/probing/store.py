"""Features in files that are mapped into memory: read once, used by every probe, and never all in
memory at once.

::

    FOLDER/KEY/
      index.json     rows, width of each stage
      places.i64     int64, which image each row is
      0.f32, 1.f32   float32 rows of each stage, in the order of index.json

A folder appears complete or not at all. What was not used for longest is deleted when all folders
together grow past a limit.
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

from ssltool.errors import DataError, DiskFullError, WeightsError

LIMIT = 8 * 2**30
"""Bytes of features kept."""

_INDEX = "index.json"


class Stored(NamedTuple):
    """Features read back.

    Attributes:
        stages: Name of the stage -> float32 ``[N, D]``, mapped from a file.
        places: int64 ``[N]``, which image each row is.
    """

    stages: dict[str, Tensor]
    places: Tensor


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

    def get(self, key: str) -> Stored | None:
        """The features under a key; None if there are none, or not whole."""
        place = self.folder / key
        try:
            index = json.loads((place / _INDEX).read_text(encoding="utf-8"))
            rows, widths = int(index["rows"]), dict(index["widths"])
            sizes = [rows * 8] + [rows * width * 4 for width in widths.values()]
            files = [place / "places.i64"] + [place / f"{i}.f32" for i in range(len(widths))]
            if [file.stat().st_size for file in files] != sizes:
                return None
            os.utime(place / _INDEX)  # used now
        except (OSError, ValueError, KeyError, TypeError):
            return None
        stages = {
            name: torch.from_file(
                str(file), shared=False, size=rows * width, dtype=torch.float32
            ).view(rows, width)
            for (name, width), file in zip(widths.items(), files[1:], strict=True)
        }
        return Stored(
            stages, torch.from_file(str(files[0]), shared=False, size=rows, dtype=torch.int64)
        )

    def put(self, key: str, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> Stored:
        """Write features batch by batch and read them back.

        Args:
            key: See `key_of`.
            batches: Name of the stage -> float32 ``[B, D]``, and the images' places int64 ``[B]``.

        Raises:
            DataError: There are no images.
            WeightsError: A feature is NaN or infinite.
            DiskFullError: They do not fit.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.folder))
        try:
            rows, widths = self._write(unfinished, batches)
            (unfinished / _INDEX).write_text(
                json.dumps({"rows": rows, "widths": widths}), encoding="utf-8"
            )
            shutil.rmtree(self.folder / key, ignore_errors=True)
            unfinished.rename(self.folder / key)
        except OSError as error:
            raise DiskFullError(
                f"{self.folder} cannot take the features ({error.strerror}); free some space, or "
                "name another folder "
                "with --cache"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        found = self.get(key)
        if found is None:
            raise DataError(
                f"{self.folder / key} was changed by somebody else meanwhile; run the command again"
            )
        if self._temporary is None:
            self._forget_oldest(key)
        return found

    def _write(
        self, folder: Path, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]
    ) -> tuple[int, dict[str, int]]:
        widths: dict[str, int] = {}
        rows = 0
        with ExitStack() as stack:
            places = stack.enter_context((folder / "places.i64").open("wb"))
            files: dict[str, Any] = {}
            for stages, which in batches:
                for name, values in stages.items():
                    if not values.isfinite().all():
                        raise WeightsError(
                            f"the encoder's {name!r} features hold NaN or infinity, finite "
                            "numbers were expected; "
                            "the weights have diverged: probe an earlier checkpoint"
                        )
                    if name not in files:
                        files[name] = stack.enter_context((folder / f"{len(files)}.f32").open("wb"))
                        widths[name] = values.shape[1]
                    files[name].write(values.float().cpu().contiguous().numpy().data)
                places.write(which.cpu().contiguous().numpy().data)
                rows += len(which)
        if not rows:
            raise DataError(
                "there are no images to probe with; check that --data holds readable images"
            )
        return rows, widths

    def _forget_oldest(self, kept: str) -> None:
        """Delete what was not used for longest until everything fits into ``LIMIT``."""
        folders = [place for place in self.folder.iterdir() if (place / _INDEX).is_file()]
        folders.sort(key=lambda place: (place / _INDEX).stat().st_mtime, reverse=True)
        total = 0
        for place in folders:
            total += sum(file.stat().st_size for file in place.iterdir())
            if total > LIMIT and place.name != kept:
                shutil.rmtree(place, ignore_errors=True)


def key_of(**facts: Any) -> str:
    """A name for features made in a certain way: equal facts (of JSON kinds) give equal names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def default_folder() -> Path:
    """Where features are kept unless said otherwise: ``ssltool/features`` in the user's cache
    folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssltool" / "features"
