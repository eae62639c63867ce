"""Pack resized images and their classes into tar or raw shards, and index existing tar shards.

For sets that are too large or too slow to read as single files.
"""

from __future__ import annotations

import io
import json
import math
import platform
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import Progress, track

from ssltool import atomic
from ssltool.atomic import atomic_file
from ssltool.data.options import PackOptions
from ssltool.data.pack_raw import RawLayout
from ssltool.data.sampler import Order
from ssltool.data.sources.base import Source
from ssltool.data.sources.joined import JoinedSource
from ssltool.data.sources.registry import open_source, splits_of
from ssltool.data.sources.same import common_fingerprint
from ssltool.data.sources.shard_index import (
    INDEX,
    ShardIndex,
    left_out_notes,
    read_index,
    write_index,
)
from ssltool.data.sources.shards import UNFINISHED
from ssltool.data.sources.survey import survey
from ssltool.data.workers import default_workers
from ssltool.distributed.collectives import from_main, is_main, rank
from ssltool.distributed.parts import divided_work, gathered, own_part
from ssltool.documents import DocumentError, read_json
from ssltool.errors import DataError, UnreadableImage, UsageError

# Pixels up to which "auto" stores PNG: small images lose most to JPEG and gain least.
_LOSSLESS = 64
_SIZE = 256  # of tar shards, unless another is typed
_ENDINGS = (".tar", INDEX, ".safetensors", ".tmp", UNFINISHED)  # of what packing writes


class IndexResult(BaseModel):
    """What `index` found in the shards.

    Attributes:
        folder: Folder of the shards.
        shards: Number of shards.
        images: Number of images in them.
        classes: Class names.
        notes: What was left out, one line each.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    shards: int
    images: int
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class PackResult(IndexResult):
    """What `pack` wrote.

    Attributes:
        splits: Number of images by split, where there are splits.
        skipped: Reason by name of the unreadable images, of the shards written by this call.
        bytes: Size of the shards.
        seconds: Duration.
    """

    splits: dict[str, int]
    skipped: dict[str, str]
    bytes: int
    seconds: float


class _Packed(NamedTuple):
    """What was packed into one folder; the first process alone knows images and bytes."""

    shards: int
    images: int
    bytes: int
    skipped: dict[str, str]


class _Sample(NamedTuple):
    """An image as it is stored in a shard."""

    key: str
    extension: str
    data: bytes
    label: int | None
    about: dict[str, str]


def pack(options: PackOptions, console: Console | None = None) -> PackResult | None:
    """Pack images into shards.

    Raw shards: see `ssltool.data.sources.raw_index`; images keep their order and, where they cannot
    be read, their place.

    Tar shards: images are shuffled once, so that each shard is a sample of all. Each has
    ``KEY.jpg`` or ``KEY.png`` (upright RGB or gray, shorter side ``size`` px, never enlarged) and
    ``KEY.json`` with the relative path of its file and, if it has a class, the name of the class;
    ``KEY.cls`` holds the number of the class, its place in ``classes`` of ``index.json``.

    Images that are divided into splits, see `ssltool.data.sources.registry.splits_of`, stay so:
    each split has a folder, ``train``, ``val`` or ``test``, and the folder above them opens as
    divided into these. Their classes are numbered alike.

    Equal images and options give equal shards. A shard is written atomically; after an interruption
    the same command continues with the missing shards. Processes that torchrun started write a part
    of the shards each.

    Args:
        options: What to pack, where to, and how.
        console: Where progress is shown; stderr by default.

    Returns:
        What was written; None in all processes but the first.

    Raises:
        UsageError: The folder holds something else, or shards of other images or options.
        DataError: No image can be read, or not all processes see the same images.
    """
    start = time.monotonic()
    with divided_work(console) as console:
        whole, folder = open_source(options.specs), options.to.expanduser()
        parts = _split(whole, options)
        if "" not in parts:
            from_main(lambda: _claim_above(folder, tuple(parts), options))
        packed = {
            name: _pack_part(part, whole, folder / name, options, console)
            for name, part in parts.items()
        }
        if not is_main():
            return None
    return PackResult(
        folder=folder,
        shards=sum(part.shards for part in packed.values()),
        images=sum(part.images for part in packed.values()),
        classes=whole.classes,
        notes=tuple(dict.fromkeys(note for part in parts.values() for note in part.notes)),
        splits={name: part.images for name, part in packed.items() if name},
        skipped={name: why for part in packed.values() for name, why in part.skipped.items()},
        bytes=sum(part.bytes for part in packed.values()),
        seconds=round(time.monotonic() - start, 1),
    )


def _split(whole: Source, options: PackOptions) -> dict[str, Source]:
    """The images of each split by its name, with the classes of all; without splits, all by ""."""
    splits = splits_of(options.specs[0]) if len(options.specs) == 1 else {}
    if not splits:
        return {"": whole}
    return {
        name: JoinedSource([open_source(part.spec)], classes=whole.classes)
        for name, part in splits.items()
    }


def _pack_part(
    source: Source, whole: Source, folder: Path, options: PackOptions, console: Console
) -> _Packed:
    """Pack images, all or those of a split, into one folder."""
    fingerprint = common_fingerprint(source)
    layout = _layout(source, whole, options, folder, console)
    from_main(lambda: _claim(folder, fingerprint, options, layout.size))
    _check_shared(folder)
    count = math.ceil(len(source) / options.per_shard)
    digits = max(4, len(str(count - 1)))
    shards = [folder / f"shard-{number:0{digits}d}{layout.ending}" for number in range(count)]
    parts = _write_shards(source, shards, layout, options, console)
    skipped = dict(chain.from_iterable(parts))
    if not is_main():
        return _Packed(count, 0, 0, skipped)
    written = _index_packed(source, folder, shards, layout, skipped)
    return _Packed(count, written.images, written.bytes, skipped)


def _index_packed(
    source: Source,
    folder: Path,
    shards: Sequence[Path],
    layout: _Layout,
    skipped: Mapping[str, str],
) -> ShardIndex:
    """Write the index of shards that are all there.

    Raises:
        DataError: No image could be read.
    """
    written = layout.index(folder, shards)
    (folder / UNFINISHED).unlink()
    if not written.images:
        name, reason = next(iter(skipped.items()), ("?", "?"))
        raise DataError(f"none of the {len(source)} images can be read; first: {name}: {reason}")
    return written


def index(folder: Path, console: Console) -> IndexResult:
    """Read the headers of all shards of a folder once and keep them beside the shards.

    Args:
        folder: A folder with ``.tar`` files.
        console: Where progress is shown.

    Raises:
        UsageError: There are no tar files in the folder.
        DataError: One of them cannot be read.
    """
    expanded = folder.expanduser()
    if not expanded.is_dir():
        raise UsageError(f"no folder at {folder}; give the folder that holds the .tar files")
    shards = sorted(str(path) for path in expanded.glob("*.tar") if path.name[0] != ".")
    if not shards:
        raise UsageError(
            f"no .tar files in {folder}; 'ssltool data pack IMAGES --to {folder}' writes some"
        )
    # Shards that we packed may lack a class none of whose images could be read.
    known = read_index(str(expanded)).classes
    written = write_index(str(expanded), _progress(shards, console), known)
    return IndexResult(
        folder=folder,
        shards=len(shards),
        images=written.images,
        classes=written.classes,
        notes=left_out_notes(written.left_out),
    )


def _progress(paths: Sequence[str], console: Console) -> Iterable[str]:
    return track(paths, "indexing", console=console, disable=console.quiet, transient=True)


def _claim_above(folder: Path, splits: Iterable[str], options: PackOptions) -> None:
    """Make sure that a folder can hold the folders of splits, and nothing else."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; type --to FOLDER")
    present = sorted(folder.iterdir()) if folder.exists() else []
    others = [path for path in present if path.name not in splits]
    only_shards = all(path.name.endswith(_ENDINGS) for path in others)
    if others and not (options.overwrite and only_shards):
        advice = "--overwrite or another --to" if only_shards else "another --to"
        raise UsageError(
            f"{folder} holds {others[0].name}, and the splits {', '.join(splits)} get folders "
            f"there; type {advice}"
        )
    for path in others:
        path.unlink()


def _claim(folder: Path, fingerprint: str, options: PackOptions, size: int) -> None:
    """Make the folder, or make sure that it holds an interrupted packing of the same images."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; type --to FOLDER")
    names = {"per_shard", "quality", "format", "framing", "seed"}
    settings = {"source": fingerprint, "size": size, **options.model_dump(include=names)}
    note = folder / UNFINISHED
    present = sorted(folder.iterdir()) if folder.exists() else []
    only_shards = all(path.name.endswith(_ENDINGS) for path in present)
    if present and options.overwrite and only_shards:
        for path in present:
            path.unlink()
    elif present:
        try:
            same = read_json(note) == settings
        except DocumentError:
            same = False
        if not same:
            advice = "--overwrite or another --to" if only_shards else "another --to"
            raise UsageError(
                f"{folder} is not empty and not the beginning of this packing; type {advice}"
            )
        atomic.remove_leftovers(folder)
        return
    with atomic_file(note) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")


class _Layout(Protocol):
    """How images lie in shards."""

    size: int
    ending: str

    def order(self, begin: int, end: int) -> Sequence[int]:
        """Indices of the images of a shard."""

    def encode(self, index: int) -> Any:
        """An image as it will be stored, or the `UnreadableImage` that says why not."""

    def writer(self, path: Path) -> AbstractContextManager[Callable[[int, Any], None]]:
        """A function that adds an image to a shard; the shard is complete after the block."""

    def index(self, folder: Path, paths: Sequence[Path]) -> ShardIndex:
        """Write the index of complete shards."""


class _TarLayout:
    """Tar shards of a source."""

    ending = ".tar"

    def __init__(self, source: Source, options: PackOptions, console: Console) -> None:
        self._source, self._options, self._console = source, options, console
        self._order = Order(len(source), source.chunks, options.seed)
        self.size = options.size or _SIZE

    def order(self, begin: int, end: int) -> Sequence[int]:
        return [int(index) for index in self._order.slice(0, begin, end)]

    def encode(self, index: int) -> _Sample | UnreadableImage:
        return _encode(self._source, index, self.size, self._options)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[int, _Sample | UnreadableImage], None]]:
        with tarfile.open(path, "w") as tar:

            def add(index: int, sample: _Sample | UnreadableImage) -> None:
                del index
                if isinstance(sample, _Sample):
                    _write(tar, sample)

            yield add

    def index(self, folder: Path, paths: Sequence[Path]) -> ShardIndex:
        shown = _progress([str(path) for path in paths], self._console)
        return write_index(str(folder), shown, self._source.classes)


def _layout(
    source: Source, whole: Source, options: PackOptions, folder: Path, console: Console
) -> _Layout:
    """How the images, part of a whole that gets one size, will lie in shards.

    Raises:
        UsageError: The size does not suit the images, or there is too little space.
    """
    if options.format != "raw":
        return _TarLayout(source, options, console)
    layout = RawLayout(source, options, survey(whole))
    console.print(layout.claim(folder))
    return layout


def _check_shared(folder: Path) -> None:
    """Make sure that this process sees what the first one wrote.

    Raises:
        UsageError: It does not.
    """
    if not (folder / UNFINISHED).exists():
        raise UsageError(
            f"process {rank()} on {platform.node()} does not see {folder} of process 0; type --to "
            "with a folder that all machines share"
        )


def _write_shards(
    source: Source, shards: Sequence[Path], layout: _Layout, options: PackOptions, console: Console
) -> list[list[tuple[str, str]]]:
    """Write this process's part of the missing shards; name and reason of the unreadable images of
    each process, see `gathered`.
    """
    threads = default_workers() + 1 if options.workers is None else options.workers
    # Others may have been written before an interruption.
    missing = from_main(lambda: [n for n, path in enumerate(shards) if not path.exists()])
    mine = [missing[i] for i in own_part(len(missing))]
    ends = [min((number + 1) * options.per_shard, len(source)) for number in mine]
    skipped = list[tuple[str, str]]()
    bar = Progress(console=console, disable=console.quiet, transient=True)
    with _thread_pool(threads) as pool, bar:
        begins = [number * options.per_shard for number in mine]
        task = bar.add_task("packing", total=sum(ends) - sum(begins))
        for number, begin, end in zip(mine, begins, ends, strict=True):
            indices = layout.order(begin, end)
            samples = pool.map(layout.encode, indices)
            with atomic_file(shards[number]) as temporary, layout.writer(temporary) as add:
                for index, sample in zip(indices, samples, strict=True):
                    if isinstance(sample, UnreadableImage):
                        skipped.append((source.name(index), str(sample)))
                    add(index, sample)
                    bar.advance(task)
    return gathered(skipped)


@contextmanager
def _thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what it has not begun: Ctrl-C does not wait for the rest of a shard."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _encode(
    source: Source, index: int, size: int, options: PackOptions
) -> _Sample | UnreadableImage:
    """An image as it will be stored, or why it cannot be read."""
    try:
        image = source.image(index, size)
    except UnreadableImage as error:
        return error
    pixels = np.asarray(image)
    if (pixels == pixels[..., :1]).all():
        image = Image.fromarray(pixels[..., 0])
    small = min(image.size) <= _LOSSLESS
    png = options.format == "png" or (options.format == "auto" and small)
    data = io.BytesIO()
    if png:
        image.save(data, "PNG")
    else:
        image.save(data, "JPEG", quality=options.quality)
    label = source.label(index)
    about = {} if label is None else {"class": source.classes[label]}
    about["file"] = source.relative_path(index)
    return _Sample(f"{index:09d}", "png" if png else "jpg", data.getvalue(), label, about)


def _write(tar: tarfile.TarFile, sample: _Sample) -> None:
    """Add the members of a sample; their headers hold no times and no user."""
    members = {sample.extension: sample.data, "json": json.dumps(sample.about).encode()}
    if sample.label is not None:
        members["cls"] = str(sample.label).encode()
    for extension, data in members.items():
        header = tarfile.TarInfo(f"{sample.key}.{extension}")
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
