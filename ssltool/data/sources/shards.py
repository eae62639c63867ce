"""Tar shards in WebDataset layout: members of one sample share a key and follow each other,
``KEY.jpg KEY.cls ...``.

Where each image lies in its shard is read from the tar headers once, so a shard is a numbered list
like any other source and order, ranks and exact resume need nothing of their own. `write_index`
keeps what was read beside the
shards: ``index.json`` (number of samples of each shard, readable by webdataset's ``wids``) and one
``NAME.index.safetensors`` per shard. With it a run of any size opens one small file, and a process
reads the table of a shard when it first needs an image of it; without it all headers are read at
the start, in each run.

Members are taken out by their place in the file; nothing is unpacked to the disk, and no member is
ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssltool.atomic import atomic_file
from ssltool.data.decode import decode, fitted, read_size, read_square
from ssltool.data.sources.base import ACCEPTED, Source, fingerprint_of
from ssltool.data.sources.folder import EXTENSIONS
from ssltool.errors import DataError, UnreadableImage, UsageError

INDEX = "index.json"
UNFINISHED = ".packing.json"
"""Lies in a folder of shards until `ssltool data pack` has written all of them."""
LABEL_KEYS = ("class", "label", "cls")
"""Where a sample's ``json`` member names its class; without one the ``cls`` member does."""

_HELD = 2**20  # images whose tables a process keeps; a table takes some 40 bytes per image
_FORMAT = "ssltool-shard-index-1"


@dataclass(frozen=True)
class Table:
    """Where the images of one shard are.

    Attributes:
        offsets: int64 ``[n]``, first byte of each image in the tar file.
        sizes: int64 ``[n]``, its length in bytes.
        labels: int32 ``[n]``, number of its class in ``classes``; -1 without one.
        names: The member names, end to end, in UTF-8.
        ends: int64 ``[n]``, where each name ends.
        classes: Class names.
        filesize: Bytes of the tar file when it was read.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int32]
    names: bytes
    ends: NDArray[np.int64]
    classes: tuple[str, ...]
    filesize: int

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, place: int) -> str:
        """Name of an image's member."""
        start = int(self.ends[place - 1]) if place else 0
        return self.names[start : int(self.ends[place])].decode("utf-8", "replace")


class ShardSource(Source):
    """The images of tar shards, shard after shard.

    Args:
        paths: The tar files, in order.
        description: What and where they are, after "... images in ".

    Raises:
        DataError: A shard is no tar file, is compressed or cut off, or none holds an image.
    """

    def __init__(self, paths: Sequence[str], description: str) -> None:
        self._paths = list(paths)
        for folder in {os.path.dirname(path) for path in paths}:
            if os.path.exists(os.path.join(folder, UNFINISHED)):
                raise DataError(
                    f"packing {folder or '.'} was not finished; run that 'ssltool data pack' again"
                )
        listed = {
            folder: _listed(folder) for folder in sorted({os.path.dirname(path) for path in paths})
        }
        self._kept: dict[
            int, Table
        ] = {}  # of shards without an index file: read again they would take long
        counts, self._filesizes, classes = list[int](), list[int](), set[str]()
        for number, path in enumerate(self._paths):
            known = listed[os.path.dirname(path)].get(os.path.basename(path))
            if known is None:
                table = _loaded(path) or scan(path)
                self._kept[number] = table
                known = _Listed(len(table), table.filesize, table.classes)
            counts.append(known.count)
            self._filesizes.append(known.filesize)
            classes.update(known.classes)
        self._ends = list(accumulate(counts))
        if not self._ends[-1]:
            raise DataError(
                f"no images in {description}: no member has an image's ending (.jpg, .png, "
                ".webp, ...)"
            )
        self.classes = tuple(sorted(classes, key=_natural))
        self._number = {name: label for label, name in enumerate(self.classes)}
        self._recent: OrderedDict[int, Table] = OrderedDict()
        self.description = f"{self._ends[-1]:,} images in {description}"

    @property
    def chunks(self) -> Sequence[int]:
        return self._ends

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return read_square(self._member(index), size)

    def image(self, index: int, short_side: int) -> Image.Image:
        return fitted(decode(self._member(index), short_side), short_side)

    def short_side(self, index: int) -> int:
        return min(read_size(self._member(index)))

    def name(self, index: int) -> str:
        shard, place = self._locate(index)
        name = self._table(shard).name(place)
        return f"{self._paths[shard]}/{name if name.isprintable() else ascii(name)[1:-1]}"

    def label(self, index: int) -> int | None:
        shard, place = self._locate(index)
        table = self._table(shard)
        label = int(table.labels[place])
        return None if label < 0 else self._number[table.classes[label]]

    def fingerprint(self) -> str:
        names = map(os.path.basename, self._paths)
        shards = zip(names, self._ends, self._filesizes, strict=True)
        return fingerprint_of(
            len(self), *(f"{name}\t{end}\t{size}\n".encode() for name, end, size in shards)
        )

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the shard that holds an image, and the image's place there."""
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _table(self, shard: int) -> Table:
        """The table of a shard, read when first asked for; those not used for long are forgotten."""
        table = self._kept.get(shard) or self._recent.get(shard)
        if table is None:
            path = self._paths[shard]
            table = _loaded(path) or scan(path)
            count = self._ends[shard] - (self._ends[shard - 1] if shard else 0)
            if len(table) != count:
                raise UnreadableImage(f"{path} holds {len(table)} images, its {INDEX} says {count}")
            self._recent[shard] = table
            while len(self._recent) > 1 and sum(map(len, self._recent.values())) > _HELD:
                self._recent.popitem(last=False)
        elif shard in self._recent:
            self._recent.move_to_end(shard)
        return table

    def _member(self, index: int) -> BinaryIO:
        """The bytes of an image's file.

        Raises:
            UnreadableImage: The shard is gone or no longer what it was.
        """
        shard, place = self._locate(index)
        try:
            table = self._table(shard)
            with open(self._paths[shard], "rb", buffering=0) as file:
                file.seek(int(table.offsets[place]))
                data = file.read(int(table.sizes[place]))
        except OSError as error:
            raise UnreadableImage((error.strerror or str(error)).lower()) from error
        except UnreadableImage:
            raise
        except DataError as error:
            raise UnreadableImage(str(error)) from error
        if len(data) < table.sizes[place]:
            raise UnreadableImage("its shard is cut off")
        return BytesIO(data)


def shard_paths(spec: str) -> list[str]:
    """The tar files that a pattern with braces, a file or a folder of nothing but tar files stands
    for.

    Returns:
        Paths in order; none if ``spec`` has nothing to do with shards.

    Raises:
        UsageError: A shard of the pattern is missing.
    """
    spec = os.path.expanduser(spec)
    if spec.endswith(".tar"):
        paths = list(expand_braces(spec))
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            among = f" ({len(missing)} of {len(paths)} are missing)" if len(paths) > 1 else ""
            raise UsageError(f"no shard at {missing[0]}{among}; {ACCEPTED}")
        return paths
    if os.path.isdir(spec):
        try:
            with os.scandir(spec) as entries:
                names = _all_tar(entry.name for entry in entries)
        except OSError:  # to be told by whoever walks it
            return []
        return [os.path.join(spec, name) for name in sorted(names)]
    return []


def expand_braces(pattern: str) -> Iterator[str]:
    """Shell-like braces: ``{0..9}``, ``{0000..0099}`` (zeros kept) and ``{a,b}``, any number of
    them, not nested.
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    if words is None:
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        inside = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    else:
        inside = words.split(",")
    for rest in expand_braces(pattern[found.end() :]):
        for word in inside:
            yield pattern[: found.start()] + word + rest


def scan(path: str) -> Table:
    """Read the headers of one tar file.

    Raises:
        DataError: It is no tar file, is compressed, or ends in the middle of a member.
    """
    offsets, sizes, names = list[int](), list[int](), list[bytes]()
    texts: list[str | None] = []
    key, image, label = "", False, None
    try:
        filesize = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # tarfile keeps every header it has seen
                tar.members = []  # type: ignore[attr-defined]
                if not member.isfile():
                    continue
                if member.offset_data + member.size > filesize:
                    raise DataError(f"{path} is cut off at {member.name}; copy or pack it again")
                stem, ending = _split(member.name)
                if stem != key:
                    key, image, label = stem, False, None
                if ending == "cls" or ending == "json":
                    said = _label(tar.extractfile(member), ending)
                    # The class's name in the json wins over the number in cls, whichever comes
                    # first.
                    label = (
                        said if said is not None and (ending == "json" or label is None) else label
                    )
                    if image:
                        texts[-1] = label
                elif not image and ending.rpartition(".")[2] in EXTENSIONS:
                    image = True
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
                    names.append(member.name.encode("utf-8", "surrogateescape"))
                    texts.append(label)
    except tarfile.TarError as error:
        raise DataError(
            f"{path} is no readable tar file ({error}); shards are plain .tar, not compressed"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    classes = tuple(sorted({text for text in texts if text is not None}, key=_natural))
    number = {name: place for place, name in enumerate(classes)}
    return Table(
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        np.array([-1 if text is None else number[text] for text in texts], np.int32),
        b"".join(names),
        np.fromiter(accumulate(map(len, names)), np.int64, len(names)),
        classes,
        filesize,
    )


def write_index(folder: str, paths: Iterable[str]) -> dict[str, Any]:
    """Scan shards of one folder and write their index beside them, atomically, ``index.json`` last.

    Args:
        folder: Where the shards are.
        paths: The shards; asked for one by one, so that a progress bar can count them.

    Returns:
        The content of ``index.json``: ``shardlist`` (``url, nsamples, filesize`` of each) and
        ``classes``.
    """
    entries, classes = list[dict[str, Any]](), set[str]()
    for path in paths:
        table = scan(path)
        with atomic_file(Path(_index_path(path))) as temporary:
            save_file(
                {
                    "offsets": table.offsets,
                    "sizes": table.sizes,
                    "labels": table.labels,
                    "names": np.frombuffer(table.names, np.uint8),
                    "ends": table.ends,
                },
                temporary,
                # One entry only: the library writes several in an order that changes from run to
                # run.
                {_FORMAT: json.dumps({"classes": table.classes, "filesize": table.filesize})},
            )
        entries.append(
            {"url": os.path.basename(path), "nsamples": len(table), "filesize": table.filesize}
        )
        classes.update(table.classes)
    document = {"wids_version": 1, "shardlist": entries, "classes": sorted(classes, key=_natural)}
    with atomic_file(Path(folder) / INDEX) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


@dataclass(frozen=True)
class _Listed:
    """What ``index.json`` says of a shard."""

    count: int
    filesize: int
    classes: tuple[str, ...]


def _listed(folder: str) -> dict[str, _Listed]:
    """What is known of the shards of a folder by file name; nothing if there is no index of ours."""
    try:
        document = json.loads(Path(folder, INDEX).read_text(encoding="utf-8"))
        classes = tuple(map(str, document["classes"]))
        return {
            str(entry["url"]): _Listed(int(entry["nsamples"]), int(entry["filesize"]), classes)
            for entry in document["shardlist"]
        }
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # absent, or another program's: the headers are read instead
        return {}


def _loaded(path: str) -> Table | None:
    """The table of a shard from its index file, if that is there and the shard has not changed
    since.
    """
    try:
        with safe_open(_index_path(path), "numpy") as file:
            about = json.loads((file.metadata() or {})[_FORMAT])
            if about["filesize"] != os.path.getsize(path):
                return None
            column = {
                name: file.get_tensor(name)
                for name in ("offsets", "sizes", "labels", "names", "ends")
            }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return Table(
        column["offsets"],
        column["sizes"],
        column["labels"],
        column["names"].tobytes(),
        column["ends"],
        tuple(about["classes"]),
        about["filesize"],
    )


def _index_path(path: str) -> str:
    return f"{path.removesuffix('.tar')}.index.safetensors"


def _all_tar(names: Iterator[str]) -> list[str]:
    """The tar files of a folder that holds nothing else but their index and hidden files; else
    nothing.
    """
    tars = []
    for name in names:
        if name.endswith(".tar") and not name.startswith("."):
            tars.append(name)
        elif not (name == INDEX or name.endswith(".index.safetensors") or name.startswith(".")):
            return []
    return tars


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member, at the first dot of its base name, as WebDataset has it."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _label(file: Any, ending: str) -> str | None:
    """The class that a ``cls`` or ``json`` member names, as text."""
    text = file.read().decode("utf-8", "replace").strip()
    if ending == "cls":
        return text or None
    try:
        document = json.loads(text)
    except ValueError:
        return None
    if isinstance(document, dict):
        for key in LABEL_KEYS:
            if isinstance(document.get(key), str | int) and not isinstance(document[key], bool):
                return str(document[key])
    return None


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in their own order, before words."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)
