"""Open the sources of images that ``--data`` names, or a torch dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from ssltool.data.sources.base import JoinedSource, Source
from ssltool.data.sources.dataset import DatasetSource
from ssltool.data.sources.demo import DemoSource
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.formats import is_hidden, is_image
from ssltool.data.sources.locations import ACCEPTED, demo_count, printable
from ssltool.data.sources.shards import ShardSource, shard_paths
from ssltool.data.sources.splits import split_folders
from ssltool.errors import UsageError

DataSpec = str | os.PathLike[str] | Source | Dataset[Any]
_DEMO_SEEDS = {"demo": 0, "demo-test": 1}


def open_source(data: DataSpec | Sequence[DataSpec], *, split: str | None = None) -> Source:
    """Open images, as typed after ``--data`` or as a dataset.

    Args:
        data: One or several of the following. A folder that is itself named demo is ``./demo``.

            - a folder of images; one of ``train``, ``val`` and ``test`` folders is their images,
              see `ssltool.data.sources.splits.split_folders`;
            - tar shards: ``shards/train-{0000..0099}.tar``, one ``.tar`` file, or a folder of them;
            - ``torchvision:NAME[:SPLIT]@ROOT[?download]``;
            - ``demo[:N]``, N images of the demo world, 4096 by default, or ``demo-test[:N]``,
              other images of the same classes;
            - a map-style torch dataset, see `DatasetSource`, or a `Source`.
        split: Of folders that are divided into splits, open this one alone: ``"train"``,
            ``"val"`` or ``"test"``; others are opened as a whole.

    Returns:
        One source of all the images, in the order given.

    Raises:
        UsageError: A path does not exist or cannot be opened as images.
        DataError: A folder has no image in it.
    """
    if isinstance(data, str | os.PathLike | Source | Dataset):
        return _open_one(data, split)
    if not data:
        raise UsageError(f"no images given; {ACCEPTED}")
    sources = [_open_one(spec, split) for spec in data]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def _open_one(spec: DataSpec, split: str | None) -> Source:
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, Dataset):
        return DatasetSource(spec)
    spec = os.fspath(spec)
    kind = spec.partition(":")[0]
    if kind in _DEMO_SEEDS:
        return DemoSource(demo_count(spec), _DEMO_SEEDS[kind])
    if kind == "torchvision":
        from ssltool.data.sources.torchvision import TorchvisionSource

        return TorchvisionSource(spec)
    splits = split_folders(spec)
    return _open_splits(spec, splits, split) if splits else _open_files(spec)


def _open_files(path: str) -> Source:
    shards = shard_paths(path)
    return ShardSource(shards, path) if shards else FolderSource(path)


def _open_splits(root: str, splits: dict[str, str], split: str | None) -> Source:
    """The images of a folder's splits, or of one of them."""
    folders = [os.path.basename(path) for path in splits.values()]
    root = os.path.expanduser(root)
    where, found = printable(root), ", ".join(folders)
    if split is None:
        source: Source = JoinedSource([_open_files(path) for path in splits.values()], folders)
        note = (
            f"{where} is divided into {found}: all are read, and the classes are the folders "
            f"inside; name {printable(os.path.join(root, folders[0]))} to read it alone"
        )
    elif split in splits:
        source = _open_files(splits[split])
        note = f"{where} is divided into {found}: only {os.path.basename(splits[split])} is read"
    else:
        raise UsageError(f"{where} has no {split} images; it is divided into {found}")
    source.notes = (note, *_loose_note(root), *source.notes)
    return source


def _loose_note(root: str) -> tuple[str, ...]:
    """How many images lie beside the folders of the splits."""
    with os.scandir(root) as entries:
        count = sum(is_image(e.name) and not is_hidden(e.name) and e.is_file() for e in entries)
    where = f"left out: directly in {printable(root)}, in no split"
    return (f"{count:,} image{'' if count == 1 else 's'} {where}",) if count else ()
