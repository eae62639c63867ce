"""Write resized images and their classes to tar shards, for sets too large or too slow to read as
single files.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress, track

from ssltool import atomic
from ssltool.atomic import atomic_file
from ssltool.data.loader import usual_workers
from ssltool.data.sampler import Order
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shards import INDEX, UNFINISHED, write_index
from ssltool.errors import DataError, UnreadableImage, UsageError

Form = Literal["auto", "jpeg", "png"]
_LOSSLESS = (
    64  # px up to which "auto" keeps images as PNG: small ones lose most to JPEG and win least
)


class _Sample(NamedTuple):
    """What is written of one image."""

    key: str
    ending: str
    data: bytes
    label: int | None
    about: dict[str, str]


def pack(
    data: Sequence[str],
    to: str,
    *,
    size: int = 256,
    per_shard: int = 2000,
    quality: int = 90,
    form: Form = "auto",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run ``ssltool data pack``.

    Images are shuffled once, so that each shard is a sample of all. Each has ``KEY.jpg`` or
    ``KEY.png`` (upright RGB or gray, shorter side ``size`` px, never enlarged) and ``KEY.json``
    with its file's name and, where it has a class, the class's name; ``KEY.cls`` holds the class's
    number. The same images and options give the same bytes. Shards appear whole or not at all;
    after an interruption the same command goes on with the shards that are missing.

    Args:
        data: Sources, as for ``pretrain --data``.
        to: Folder for the shards.
        size: Shorter side in pixels.
        per_shard: Images in a shard.
        quality: Of JPEG, 1 to 100.
        form: ``auto`` is PNG for images of up to 64 px and JPEG above.
        seed: Of the order.
        workers: Threads that decode; None decides from the cores.
        overwrite: Remove shards that are there already.
        console: Where progress goes.

    Returns:
        ``folder, shards, images, skipped`` (name -> reason, of the shards written now), ``classes,
        bytes, seconds``.

    Raises:
        UsageError: The folder holds something else, or shards of other images or options.
        DataError: No image can be read.
    """
    console, start = console or Console(stderr=True, highlight=False), time.monotonic()
    source = open_source(data)
    folder = Path(to).expanduser()
    settings = {
        "source": source.fingerprint(),
        "size": size,
        "per_shard": per_shard,
        "quality": quality,
        "format": form,
        "seed": seed,
    }
    _claim(folder, settings, overwrite)
    order = Order(len(source), source.chunks, seed)
    starts = range(0, len(source), per_shard)
    width = max(4, len(str(len(starts) - 1)))
    paths = [folder / f"shard-{number:0{width}d}.tar" for number in range(len(starts))]
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(
            ThreadPoolExecutor(usual_workers() + 1 if workers is None else max(1, workers))
        )
        stack.callback(
            pool.shutdown, wait=True, cancel_futures=True
        )  # on Ctrl-C, not after the rest of the shard
        bar = stack.enter_context(Progress(console=console, disable=console.quiet, transient=True))
        task = bar.add_task("packing", total=len(source))
        for path, begin in zip(paths, starts, strict=True):
            places = order.slice(0, begin, min(begin + per_shard, len(source))).tolist()
            if path.exists():  # by an earlier, interrupted run
                bar.advance(task, len(places))
                continue
            with atomic_file(path) as temporary, tarfile.open(temporary, "w") as tar:
                for sample in pool.map(
                    lambda place: _encoded(source, place, size, quality, form), places
                ):
                    if isinstance(sample, _Sample):
                        _write(tar, sample)
                    else:
                        skipped.update(sample)
                    bar.advance(task)
    written = [str(path) for path in paths]
    document = write_index(str(folder), _counted(written, console))
    (folder / UNFINISHED).unlink()
    images = sum(entry["nsamples"] for entry in document["shardlist"])
    if not images:
        name, reason = next(iter(skipped.items()), ("?", "?"))
        raise DataError(f"none of the {len(source)} images can be read; first: {name}: {reason}")
    return {
        "folder": str(folder),
        "shards": len(paths),
        "images": images,
        "skipped": skipped,
        "classes": document["classes"],
        "bytes": sum(entry["filesize"] for entry in document["shardlist"]),
        "seconds": round(time.monotonic() - start, 1),
    }


def index(folder: str, console: Console) -> dict[str, Any]:
    """Run ``ssltool data index``: read the headers of all shards of a folder once, for good.

    Returns:
        ``folder, shards, images, classes``.

    Raises:
        UsageError: There are no tar files in the folder.
        DataError: One of them cannot be read.
    """
    expanded = os.path.expanduser(folder)
    if not os.path.isdir(expanded):
        raise UsageError(f"no folder at {folder}; give the folder that holds the .tar files")
    names = sorted(
        name for name in os.listdir(expanded) if name.endswith(".tar") and not name.startswith(".")
    )
    if not names:
        raise UsageError(
            f"no .tar files in {folder}; 'ssltool data pack PICTURES --to {folder}' would write "
            "some"
        )
    document = write_index(
        expanded, _counted([os.path.join(expanded, name) for name in names], console)
    )
    images = sum(entry["nsamples"] for entry in document["shardlist"])
    return {
        "folder": folder,
        "shards": len(names),
        "images": images,
        "classes": document["classes"],
    }


def _counted(paths: Sequence[str], console: Console) -> Iterable[str]:
    return track(paths, "indexing", console=console, disable=console.quiet, transient=True)


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder, or find that it holds the beginning of this very packing."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; type --to FOLDER")
    note = folder / UNFINISHED
    present = sorted(path for path in folder.iterdir()) if folder.exists() else []
    endings = (".tar", INDEX, ".index.safetensors", ".tmp", UNFINISHED)
    ours = all(path.name.endswith(endings) for path in present)
    if present and overwrite and ours:
        for path in present:
            path.unlink()
    elif present:
        try:
            same = json.loads(note.read_text(encoding="utf-8")) == settings
        except (OSError, ValueError):
            same = False
        if not same:
            advice = "--overwrite or another --to" if ours else "another --to"
            raise UsageError(
                f"{folder} is not empty and not the beginning of this packing; type {advice}"
            )
        atomic.remove_leftovers(folder)
        return
    with atomic_file(note) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")


def _encoded(
    source: Source, place: int, size: int, quality: int, form: Form
) -> _Sample | dict[str, str]:
    """An image as it will be written, or its name and why it cannot be read."""
    try:
        image = source.image(place, size)
    except UnreadableImage as error:
        return {source.name(place): str(error)}
    pixels = np.asarray(image)
    if (pixels == pixels[..., :1]).all():
        image = Image.fromarray(pixels[..., 0])
    png = form == "png" or (form == "auto" and min(image.size) <= _LOSSLESS)
    data = io.BytesIO()
    if png:
        image.save(data, "PNG")
    else:
        image.save(data, "JPEG", quality=quality)
    label = source.label(place)
    about = {} if label is None else {"class": source.classes[label]}
    about["file"] = os.path.basename(source.name(place))
    return _Sample(f"{place:09d}", "png" if png else "jpg", data.getvalue(), label, about)


def _write(tar: tarfile.TarFile, sample: _Sample) -> None:
    """Add the members of a sample, with nothing of the moment or the user in their headers."""
    members = {sample.ending: sample.data, "json": json.dumps(sample.about).encode()}
    if sample.label is not None:
        members["cls"] = str(sample.label).encode()
    for ending, data in members.items():
        header = tarfile.TarInfo(f"{sample.key}.{ending}")
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
