"""Open the sources of images that ``--data`` names, or a torch dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from ssltool.data.sources.base import ACCEPTED, JoinedSource, Source
from ssltool.data.sources.dataset import DatasetSource
from ssltool.data.sources.demo import DemoSource
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.shards import ShardSource, shard_paths
from ssltool.errors import UsageError

DataSpec = str | os.PathLike[str] | Source | Dataset[Any]
DEMO_COUNT = 4096
_DEMO_SEEDS = {"demo": 0, "demo-test": 1}


def open_source(data: DataSpec | Sequence[DataSpec]) -> Source:
    """Open images, as typed after ``--data`` or as a dataset.

    Args:
        data: One or several of the following. A folder that is itself named demo is ``./demo``.

            - a folder of images;
            - tar shards: ``shards/train-{0000..0099}.tar``, one ``.tar`` file, or a folder of them;
            - ``torchvision:NAME[:SPLIT]@ROOT[?download]``;
            - ``demo[:N]``, N images of the demo world, 4096 by default, or ``demo-test[:N]``,
              other images of the same classes;
            - a map-style torch dataset, see `DatasetSource`, or a `Source`.

    Returns:
        One source of all the images, in the order given.

    Raises:
        UsageError: A path does not exist or cannot be opened as images.
        DataError: A folder has no image in it.
    """
    if isinstance(data, str | os.PathLike | Source | Dataset):
        return _open_one(data)
    if not data:
        raise UsageError(f"no images given; {ACCEPTED}")
    sources = [_open_one(spec) for spec in data]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def _open_one(spec: DataSpec) -> Source:
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, Dataset):
        return DatasetSource(spec)
    spec = os.fspath(spec)
    kind, colon, count = spec.partition(":")
    if kind in _DEMO_SEEDS:
        return DemoSource(_demo_count(spec, count) if colon else DEMO_COUNT, _DEMO_SEEDS[kind])
    if kind == "torchvision":
        from ssltool.data.sources.torchvision import TorchvisionSource

        return TorchvisionSource(spec)
    shards = shard_paths(spec)
    return ShardSource(shards, spec) if shards else FolderSource(spec)


def _demo_count(spec: str, count: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", count):
        raise UsageError(
            f"{spec!r}: what follows the colon is a number of images below a billion, as in "
            f"demo:{DEMO_COUNT}"
        )
    return int(count)
