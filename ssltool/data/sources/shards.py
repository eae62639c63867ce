"""`ShardSource`: images in tar shards of WebDataset layout, and the index beside such shards.

The members of a sample share a key and are adjacent: ``KEY.jpg KEY.cls ...``. The offset of each
image is read from the tar headers once, so shards are an indexable list like any other source, and
order, ranks and exact resume need no special case. `write_index` keeps the offsets beside the
shards: ``index.json`` (number of samples per shard, readable by webdataset's ``wids``) and one
``NAME.index.safetensors`` per shard. With it, a run opens one small file, and a process loads the
table of a shard when it first needs an image of it; without it, every run reads all headers at its
start.

Members are read at their offset; nothing is extracted to disk and no member is ever unpickled.
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
from typing import Any, BinaryIO, NamedTuple

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
"""Present in a folder of shards until `ssltool data pack` has written all of them."""
LABEL_KEYS = ("class", "label", "cls")
"""Keys of a sample's ``json`` member that name its class; otherwise the ``cls`` member does."""

_CACHED_IMAGES = 2**20  # images whose tables a process caches; about 40 bytes each
_FORMAT = "ssltool-shard-index-1"


@dataclass(frozen=True)
class Table:
    """Offsets, names and labels of the images of one shard.

    Attributes:
        offsets: int64 ``[n]``, first byte of each image in the tar file.
        sizes: int64 ``[n]``, length of each image in bytes.
        labels: int32 ``[n]``, class numbers in ``classes``; -1 for none.
        names: The member names, concatenated, in UTF-8.
        ends: int64 ``[n]``, end of each name in ``names``.
        classes: Class names.
        filesize: Size in bytes of the tar file when it was read.
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

    def name(self, index: int) -> str:
        """Name of an image's member."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].decode("utf-8", "replace")


class ShardIndex(NamedTuple):
    """What `write_index` wrote.

    Attributes:
        images: Number of images in all shards.
        bytes: Size of all shards.
        classes: Class names; numbers in numerical order, before words.
    """

    images: int
    bytes: int
    classes: tuple[str, ...]


class ShardSource(Source):
    """The images of tar shards, shard after shard.

    Args:
        paths: The tar files, in order.
        description: Where they are; follows "... images in ".

    Raises:
        DataError: A shard is no tar file, is compressed or cut off, or none holds an image.
    """

    def __init__(self, paths: Sequence[str], description: str) -> None:
        self._paths = list(paths)
        for folder in {os.path.dirname(path) for path in paths}:
            if os.path.exists(os.path.join(folder, UNFINISHED)):
                raise DataError(
                    f"packing {folder or '.'} was not finished; run the same 'ssltool data pack' "
                    "again"
                )
        folders = sorted({os.path.dirname(path) for path in paths})
        indexes = {folder: _read_index(folder) for folder in folders}
        # Tables of shards without an index: reading their headers again would take long.
        self._scanned: dict[int, Table] = {}
        counts, self._filesizes, classes = list[int](), list[int](), set[str]()
        for number, path in enumerate(self._paths):
            entry = indexes[os.path.dirname(path)].get(os.path.basename(path))
            if entry is None:
                table = _load_table(path) or scan(path)
                self._scanned[number] = table
                entry = _IndexEntry(len(table), table.filesize, table.classes)
            counts.append(entry.count)
            self._filesizes.append(entry.filesize)
            classes.update(entry.classes)
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
        shard, local = self._locate(index)
        name = self._table(shard).name(local)
        return f"{self._paths[shard]}/{name if name.isprintable() else ascii(name)[1:-1]}"

    def label(self, index: int) -> int | None:
        shard, local = self._locate(index)
        table = self._table(shard)
        label = int(table.labels[local])
        return None if label < 0 else self._number[table.classes[label]]

    def fingerprint(self) -> str:
        names = map(os.path.basename, self._paths)
        shards = zip(names, self._ends, self._filesizes, strict=True)
        return fingerprint_of(
            len(self), *(f"{name}\t{end}\t{size}\n".encode() for name, end, size in shards)
        )

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the shard that holds an image, and the index of the image in the shard."""
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _table(self, shard: int) -> Table:
        """The table of a shard, loaded when first needed; the least recently used are dropped."""
        table = self._scanned.get(shard) or self._recent.get(shard)
        if table is None:
            path = self._paths[shard]
            table = _load_table(path) or scan(path)
            count = self._ends[shard] - (self._ends[shard - 1] if shard else 0)
            if len(table) != count:
                raise UnreadableImage(f"{path} holds {len(table)} images, its {INDEX} says {count}")
            self._recent[shard] = table
            while len(self._recent) > 1 and sum(map(len, self._recent.values())) > _CACHED_IMAGES:
                self._recent.popitem(last=False)
        elif shard in self._recent:
            self._recent.move_to_end(shard)
        return table

    def _member(self, index: int) -> BinaryIO:
        """The encoded bytes of an image.

        Raises:
            UnreadableImage: The shard is missing or has changed.
        """
        shard, local = self._locate(index)
        try:
            table = self._table(shard)
            with open(self._paths[shard], "rb", buffering=0) as file:
                file.seek(int(table.offsets[local]))
                data = file.read(int(table.sizes[local]))
        except OSError as error:
            raise UnreadableImage((error.strerror or str(error)).lower()) from error
        except UnreadableImage:
            raise
        except DataError as error:
            raise UnreadableImage(str(error)) from error
        if len(data) < table.sizes[local]:
            raise UnreadableImage("its shard is cut off")
        return BytesIO(data)


def shard_paths(spec: str) -> list[str]:
    """The tar files of a spec: a file, a pattern with braces, or a folder of nothing but tar files.

    Returns:
        Paths in order; none if ``spec`` does not name shards.

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
        except OSError:  # reported when the folder is walked for images
            return []
        return [os.path.join(spec, name) for name in sorted(names)]
    return []


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand ``{0..9}``, ``{0000..0099}`` (zeros kept) and ``{a,b}`` as a shell does; not nested."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is None:
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    else:
        choices = words.split(",")
    for rest in expand_braces(pattern[match.end() :]):
        for word in choices:
            yield pattern[: match.start()] + word + rest


def scan(path: str) -> Table:
    """Read the headers of one tar file.

    Raises:
        DataError: It is no tar file, is compressed, or ends in the middle of a member.
    """
    try:
        filesize = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar:
            samples = list(_image_samples(tar, path, filesize))
    except tarfile.TarError as error:
        raise DataError(
            f"{path} is no readable tar file ({error}); shards are plain .tar, not compressed"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    labels = {sample.label for sample in samples if sample.label is not None}
    classes = tuple(sorted(labels, key=_natural))
    number: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    names = [sample.name for sample in samples]
    return Table(
        np.array([sample.offset for sample in samples], np.int64),
        np.array([sample.size for sample in samples], np.int64),
        np.array([number.get(sample.label, -1) for sample in samples], np.int32),
        b"".join(names),
        np.fromiter(accumulate(map(len, names)), np.int64, len(names)),
        classes,
        filesize,
    )


@dataclass(slots=True)
class _Sample:
    """The members of one key, as far as they matter."""

    offset: int = 0
    size: int = 0
    name: bytes = b""
    label: str | None = None

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> None:
        """Take a member in: the first image, or a label."""
        if extension in ("cls", "json"):
            label = _label(tar.extractfile(member), extension)
            # The class name in json takes precedence over the number in cls.
            if label is not None and (extension == "json" or self.label is None):
                self.label = label
        elif not self.name and extension.rpartition(".")[2] in EXTENSIONS:
            self.offset, self.size = member.offset_data, member.size
            self.name = member.name.encode("utf-8", "surrogateescape")


def _image_samples(tar: tarfile.TarFile, path: str, filesize: int) -> Iterator[_Sample]:
    """The samples that hold an image, in order.

    Raises:
        DataError: The file ends in the middle of a member.
    """
    key, sample = "", _Sample()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has read
        if not member.isfile():
            continue
        if member.offset_data + member.size > filesize:
            raise DataError(f"{path} is cut off at {member.name}; copy or pack it again")
        stem, extension = _split(member.name)
        if stem != key:
            if sample.name:
                yield sample
            key, sample = stem, _Sample()
        sample.add(tar, member, extension)
    if sample.name:
        yield sample


def write_index(folder: str, paths: Iterable[str]) -> ShardIndex:
    """Scan the shards of one folder and write their index beside them, atomically.

    Args:
        folder: Folder of the shards.
        paths: The shards; consumed one by one, so that a progress bar can count them.
    """
    entries, classes = list[dict[str, str | int]](), set[str]()
    images = size = 0
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
                # One entry: safetensors writes several in an order that changes from run to run.
                {_FORMAT: json.dumps({"classes": table.classes, "filesize": table.filesize})},
            )
        name = os.path.basename(path)
        entries.append({"url": name, "nsamples": len(table), "filesize": table.filesize})
        classes.update(table.classes)
        images += len(table)
        size += table.filesize
    names = sorted(classes, key=_natural)
    document = {"wids_version": 1, "shardlist": entries, "classes": names}
    # Last, so that it lists only shards whose own index is there.
    with atomic_file(Path(folder) / INDEX) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return ShardIndex(images, size, tuple(names))


@dataclass(frozen=True)
class _IndexEntry:
    """A shard in ``index.json``."""

    count: int
    filesize: int
    classes: tuple[str, ...]


def _read_index(folder: str) -> dict[str, _IndexEntry]:
    """The entries of ``index.json`` by file name; none without an index of ours."""
    try:
        document = json.loads(Path(folder, INDEX).read_text(encoding="utf-8"))
        classes = tuple(map(str, document["classes"]))
        return {
            str(entry["url"]): _IndexEntry(int(entry["nsamples"]), int(entry["filesize"]), classes)
            for entry in document["shardlist"]
        }
    # Missing, or another program's: the headers are read instead.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _load_table(path: str) -> Table | None:
    """The table of a shard from its index file; None if it is missing or the shard has changed."""
    try:
        with safe_open(_index_path(path), "numpy") as file:
            about = json.loads((file.metadata() or {})[_FORMAT])
            if about["filesize"] != os.path.getsize(path):
                return None
            names = ("offsets", "sizes", "labels", "names", "ends")
            column = {name: file.get_tensor(name) for name in names}
            return Table(
                column["offsets"],
                column["sizes"],
                column["labels"],
                column["names"].tobytes(),
                column["ends"],
                tuple(about["classes"]),
                about["filesize"],
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _index_path(path: str) -> str:
    return f"{path.removesuffix('.tar')}.index.safetensors"


def _all_tar(names: Iterator[str]) -> list[str]:
    """The tar files of a folder, or none if it holds more than tars, an index and hidden files."""
    tars = []
    for name in names:
        if name.endswith(".tar") and not name.startswith("."):
            tars.append(name)
        elif not (name == INDEX or name.endswith(".index.safetensors") or name.startswith(".")):
            return []
    return tars


def _split(name: str) -> tuple[str, str]:
    """Key and extension of a member, split at the first dot of its base name as in WebDataset."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _label(file: Any, extension: str) -> str | None:
    """The class in a ``cls`` or ``json`` member, as text."""
    text = file.read().decode("utf-8", "replace").strip()
    if extension == "cls":
        return text or None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict):
        for key in LABEL_KEYS:
            if isinstance(document.get(key), str | int) and not isinstance(document[key], bool):
                return str(document[key])
    return None


def _natural(name: str) -> tuple[int, int, str]:
    """Sort key: numbers in numerical order, before words."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)
