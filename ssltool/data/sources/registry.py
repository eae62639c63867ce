"""Open the sources of images that ``--data`` names, or a dataset object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from ssltool.data.sources.base import Source
from ssltool.data.sources.dataset import DatasetSource
from ssltool.data.sources.demo import DemoSource
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.formats import is_hidden, is_image
from ssltool.data.sources.joined import JoinedSource
from ssltool.data.sources.locations import (
    ACCEPTED,
    demo_count,
    file_and_split,
    hf_parts,
    is_manifest,
    is_parquet,
    is_zip,
    listed_parquet,
    printable,
    video_and_step,
)
from ssltool.data.sources.manifest import ManifestSource, manifest_splits
from ssltool.data.sources.raw import RawSource
from ssltool.data.sources.raw_index import read_raw_index
from ssltool.data.sources.rows import (
    hf_splits,
    is_dataset,
    open_dataset,
    open_hf,
    open_parquet,
    parquet_folder,
    parquet_has_images,
    parquet_splits,
)
from ssltool.data.sources.shards import ShardSource, check_finished, shard_paths
from ssltool.data.sources.splits import split_folders
from ssltool.data.sources.urls import ENDINGS, is_url, shown, zip_parts
from ssltool.data.sources.video import open_videos, videos_of
from ssltool.data.sources.zipped import ZipSource, zip_splits
from ssltool.errors import UsageError

DataSpec = str | os.PathLike[str] | Source | Dataset[Any]
_DEMO_SEEDS = {"demo": 0, "demo-test": 1}


class Part(NamedTuple):
    """One split of what a spec names.

    Attributes:
        name: Of the split, as it is there, such as ``validation``.
        spec: Opens it alone.
    """

    name: str
    spec: str


def open_source(
    data: DataSpec | Sequence[DataSpec], *, split: str | None = None, arrays: bool = False
) -> Source:
    """Open images, as typed after ``--data`` or as a dataset.

    Args:
        data: One or several of the following. A folder that is itself named demo is ``./demo``.

            - a folder of images; one of ``train``, ``val`` and ``test`` folders is their images,
              see `ssltool.data.sources.splits.split_folders`;
            - tar shards: ``shards/train-{0000..0099}.tar``, one ``.tar`` file, or a folder of them;
            - a folder of raw shards, as ``ssltool data pack --format raw`` writes them;
            - a zip file of images, or ``zip://FOLDER::photos.zip``, a folder of it;
            - a manifest, ``list.csv[:SPLIT]`` (also ``.tsv``, ``.jsonl``, ``.parquet``), see
              `ManifestSource`;
            - Parquet files of images, ``photos/*.parquet``, or a folder of them;
            - a video, ``clip.mp4[?every=N]`` (also ``.mov``, ``.mkv``, ``.webm``, ``.avi``), or a
              folder of nothing but videos, ``clips[?every=N]``, see `VideoSource`;
            - ``hf:NAME_OR_PATH[:SPLIT]``, a dataset of the Hugging Face hub, or one saved by its
              ``save_to_disk``, see `ssltool.data.sources.rows.RowSource`;
            - a URL of ``s3``, ``gs``, ``http`` or ``https`` of shards, or of one of these files;
            - ``torchvision:NAME[:SPLIT]@ROOT[?download]``;
            - ``demo[:N]``, N images of the demo world, 4096 by default, or ``demo-test[:N]``,
              other images of the same classes;
            - a map-style torch dataset, see `DatasetSource`, a ``datasets.Dataset``, or a `Source`.
        split: Of what is divided into splits, open this one alone: ``"train"``, ``"val"`` or
            ``"test"``; others are opened as a whole.
        arrays: Whether ``.npy`` files of a folder are images, where values are read as they are.

    Returns:
        One source of all the images, in the order given.

    Raises:
        UsageError: A path does not exist or cannot be opened as images.
        DataError: There is no image in it, or it cannot be read.
    """
    if is_dataset(data):
        return open_dataset(data)
    if isinstance(data, str | os.PathLike | Source | Dataset):
        return _open_one(data, split, arrays)
    if not data:
        raise UsageError(f"no images given; {ACCEPTED}")
    sources = [_open_one(spec, split, arrays) for spec in data]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def splits_of(spec: str | os.PathLike[str]) -> dict[str, Part]:
    """The splits that the images of a spec are divided into.

    Args:
        spec: As typed after ``--data``.

    Returns:
        ``train``, ``val`` and ``test``, as far as they are there; empty unless there are training
        images and another split, and where the spec names one split itself.

    Raises:
        UsageError: The images do not exist, or two parts of them stand for the same split.
    """
    spec = os.fspath(spec)
    kind = spec.partition(":")[0]
    if kind in (*_DEMO_SEEDS, "torchvision", "object") or video_and_step(spec) is not None:
        return {}
    if kind == "hf":
        name, names = hf_splits(spec)
        return {split: Part(own, f"hf:{name}:{own}") for split, own in names.items()}
    place = _find(spec)
    if place.split is not None or place.path.endswith(".tar"):
        return {}
    if is_zip(place.path):
        return _zip_parts(spec, place)
    if place.is_table:
        return _table_parts(spec, place)
    return _folder_parts(place.path)


def _zip_parts(spec: str, place: _Place) -> dict[str, Part]:
    """The splits that the folders of a zip file are."""
    archive = zip_parts(spec)[1]
    return {
        split: Part(folder.rpartition("/")[2], f"zip://{folder}::{archive}")
        for split, folder in zip_splits(place.path, place.folder).items()
    }


def _table_parts(spec: str, place: _Place) -> dict[str, Part]:
    """The splits that a column of a manifest or of Parquet files tells."""
    names = parquet_splits(place.parquet) if place.holds_images else manifest_splits(place.path)
    return {split: Part(own, f"{spec}:{own}") for split, own in names.items()}


def _folder_parts(root: str) -> dict[str, Part]:
    """The splits of a folder: of its Parquet files by their names, or its folders."""
    patterns = parquet_folder(root)
    if patterns:
        return {split: Part(split, pattern) for split, pattern in patterns.items() if split}
    folders = split_folders(root) or {}
    return {split: Part(os.path.basename(path), path) for split, path in folders.items()}


def whole_of(spec: str | os.PathLike[str]) -> str | None:
    """The spec of all the images of which a spec names one split; None if it names none.

    Args:
        spec: As typed after ``--data``: ``photos/train``, ``list.csv:train``,
            ``zip://train::photos.zip`` or ``hf:NAME:train``.
    """
    spec = os.fspath(spec)
    if spec.startswith("hf:"):
        name, split = hf_parts(spec)
        whole = f"hf:{name}"
    elif zip_parts(spec)[0]:
        inner, archive = zip_parts(spec)
        folder, _, split = (inner or "").rpartition("/")
        whole = f"zip://{folder}::{archive}" if folder else archive
    elif os.path.isdir(os.path.expanduser(spec)):
        whole, split = os.path.split(os.path.realpath(os.path.expanduser(spec)))
        if not split_folders(whole):
            return None
    else:
        whole, split = file_and_split(spec)
    if not split:
        return None
    return whole if split in {part.name for part in splits_of(whole).values()} else None


class _Place(NamedTuple):
    """Where the images of a spec are on this machine.

    Attributes:
        paths: The folder, file or pattern; several if they were downloaded.
        split: Split that was typed after a manifest.
        folder: Folder of a zip file.
        url: Where they were downloaded from; empty for those of this machine.
    """

    paths: list[str]
    split: str | None = None
    folder: str = ""
    url: str = ""

    @property
    def path(self) -> str:
        """The folder, file or pattern; the first of several."""
        return self.paths[0]

    @property
    def parquet(self) -> list[str]:
        """Its Parquet files."""
        return self.paths if self.url else listed_parquet(self.path)

    @property
    def is_table(self) -> bool:
        """Whether it is a manifest or Parquet files."""
        return is_manifest(self.path) or is_parquet(self.path)

    @property
    def holds_images(self) -> bool:
        """Whether it is Parquet files of images, and not of their paths."""
        return is_parquet(self.path) and parquet_has_images(self.parquet)


def _find(spec: str) -> _Place:
    """The place of a spec; what a URL names is downloaded unless it was before."""
    if not is_url(spec):
        path, split = file_and_split(os.path.expanduser(spec))
        return _Place([path], split)
    from ssltool.data.sources.remote import fetch, local_zip

    url, split = file_and_split(spec)
    member, archive = zip_parts(url)
    if member is not None and not member.lower().endswith(ENDINGS):
        return _Place([local_zip(archive)], folder=member, url=archive if is_url(archive) else "")
    return _Place(fetch(url), split, url=url)


def _open_one(spec: DataSpec, split: str | None, arrays: bool) -> Source:
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, Dataset):
        return DatasetSource(spec)
    if is_dataset(spec):
        return open_dataset(spec)
    spec = os.fspath(spec)
    kind = spec.partition(":")[0]
    if kind in _DEMO_SEEDS:
        return DemoSource(demo_count(spec), _DEMO_SEEDS[kind])
    if kind == "torchvision":
        from ssltool.data.sources.torchvision import TorchvisionSource

        return TorchvisionSource(spec)
    parts = splits_of(spec)
    return _open_split(spec, parts, split, arrays) if parts else _open_whole(spec, arrays)


def _open_whole(spec: str, arrays: bool) -> Source:
    """The images of a spec that are not divided into splits, or one split of them."""
    if spec.startswith("hf:"):
        return open_hf(spec)
    video = video_and_step(spec)
    if video is not None:
        return _open_video(*video)
    place = _find(spec)
    where = shown(place.url)
    if place.path.endswith(".tar"):
        shards = place.paths if place.url else shard_paths(place.path)
        return ShardSource(shards, where or place.path)
    if is_zip(place.path):
        return ZipSource(place.path, place.folder, where)
    if place.holds_images:
        return open_parquet(place.parquet, place.split, where or printable(place.path))
    if place.is_table:
        return ManifestSource(place.path, place.split, place.url or None)
    return _open_folder(place.path, arrays)


def _open_folder(path: str, arrays: bool) -> Source:
    """A folder of raw shards, Parquet files, videos, tar shards or, else, of images."""
    check_finished(path)
    raw = read_raw_index(path)
    if raw is not None:
        return RawSource(path, raw)
    patterns = parquet_folder(path)
    if patterns:
        return open_parquet(listed_parquet(patterns[""]), None, printable(path))
    videos = videos_of(path)
    if videos:
        return open_videos(videos)
    shards = shard_paths(path)
    return ShardSource(shards, path) if shards else FolderSource(path, arrays=arrays)


def _open_video(path: str, every: int) -> Source:
    if not os.path.isdir(path):
        return open_videos([path], every)
    videos = videos_of(path)
    if not videos:
        raise UsageError(
            f"{printable(path)} does not hold videos alone, and ?every=N is for videos; name one"
        )
    return open_videos(videos, every)


def _open_split(spec: str, parts: dict[str, Part], split: str | None, arrays: bool) -> Source:
    """The images of all splits, or of one of them."""
    names = [part.name for part in parts.values()]
    where, found = shown(os.path.expanduser(spec)), ", ".join(map(printable, names))
    if split is None and _has_split_column(spec):
        source = _open_whole(spec, arrays)
        note = f"{where} is divided into {found}: all are read; type {parts['train'].spec} for one"
    elif split is None:
        source = JoinedSource([_open_whole(part.spec, arrays) for part in parts.values()], names)
        note = (
            f"{where} is divided into {found}: all are read, and the classes are the folders "
            f"inside; name {shown(next(iter(parts.values())).spec)} to read it alone"
        )
    elif split in parts:
        source = _open_whole(parts[split].spec, arrays)
        note = f"{where} is divided into {found}: only {printable(parts[split].name)} is read"
    else:
        raise UsageError(f"{where} has no {split} images; it is divided into {found}")
    source.notes = (note, *_loose_note(spec), *source.notes)
    return source


def _has_split_column(spec: str) -> bool:
    """Whether the splits are those of a column, so that the file has an order of its own."""
    return not spec.startswith("hf:") and (is_manifest(spec) or is_parquet(spec))


def _loose_note(root: str) -> tuple[str, ...]:
    """How many images lie beside the folders of the splits."""
    root = os.path.expanduser(root)
    if not os.path.isdir(root):
        return ()
    with os.scandir(root) as entries:
        count = sum(is_image(e.name) and not is_hidden(e.name) and e.is_file() for e in entries)
    where = f"left out: directly in {printable(root)}, in no split"
    return (f"{count:,} image{'' if count == 1 else 's'} {where}",) if count else ()
