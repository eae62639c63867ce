"""`Source`: an indexable list of images with optional labels; `survey` samples its statistics."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import (
    ImagePath,
    decode,
    dimensions,
    fitted,
    plain_jpeg,
    read_square,
    read_stretched,
    stretched,
)
from ssltool.data.sources.formats import check_file
from ssltool.data.sources.locations import printable
from ssltool.data.values import read_values
from ssltool.errors import DataError, UnreadableImage

_SURVEY_SIZE = 64
_FOLDER_CHUNK = 4096


class Source(ABC):
    """An indexable list of images. An index gives the same image at any time, in any process."""

    classes: tuple[str, ...] = ()
    """Class names by label, in NFC and in the order of `class_order`; empty without labels."""

    description: str = ""
    """What and where the images are, on one line, for people."""

    location: str = ""
    """Absolute real path of the images, or what stands for it; see also ``fingerprint``."""

    cacheable: bool = True
    """Whether ``fingerprint`` covers every image."""

    unlisted: Mapping[str, str] = {}
    """Reason by path of the folders that cannot be listed; their images are not in the source."""

    in_order: bool = False
    """Whether the images of a batch are better read in ascending order."""

    channels: int = 3
    """Channels of what is read: R, G and B, unless files are read as they are."""

    notes: tuple[str, ...] = ()
    """What was left out or decided when the source was opened, one line each, for people."""

    surveyed: Survey | None = None
    """Statistics that are known without reading images; see `survey`."""

    @property
    def chunks(self) -> Sequence[int]:
        """Ends of the chunks of images that are better read together, such as shards, ascending.

        Empty if the order of reading does not matter; see `ssltool.data.sampler`.
        """
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images, unreadable ones included."""

    @abstractmethod
    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        """The center square of one image, uint8 ``[size, size, 3]``, RGB.

        With `ssltool.data.channels.ChannelSource` it has N channels, here and below.

        Raises:
            UnreadableImage: With a short reason that does not name the image.
        """

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        """One whole image, both sides resized: uint8 ``[size, size, 3]``, and width / height.

        Raises:
            UnreadableImage: As ``read``.
        """
        return stretched(np.asarray(self.image(index, size)), size)

    def image(self, index: int, short_side: int) -> Image.Image:
        """One whole image, mode ``"RGB"``, with a shorter side of at most ``short_side`` px.

        Raises:
            UnreadableImage: As ``read``.
        """
        return Image.fromarray(self.read(index, short_side))

    def values(self, index: int) -> NDArray[Any]:
        """The values of one image as they are stored, ``[H, W, C]`` of the file's own type.

        Raises:
            UnreadableImage: As ``read``; also if the source holds no such values.
        """
        del index
        raise UnreadableImage("images of this source have no values but RGB; omit --channels")

    def jpeg(self, index: int) -> bytes | None:
        """The file of an image, if it is a JPEG that a GPU decodes as ``read`` does."""
        del index
        return None

    @abstractmethod
    def short_side(self, index: int) -> int:
        """Length in pixels of an image's shorter side, without decoding it.

        Raises:
            UnreadableImage: As ``read``.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of an image for messages; printable, on one line."""

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Class number of an image, an index into ``classes``; None without a label."""

    def relative_path(self, index: int) -> str:
        """Path of an image below the root of its source, in NFC, with ``/`` between folders.

        Label files name images by it. Without files it is ``item/INDEX``.
        """
        return f"item/{index}"

    def split(self, index: int) -> str | None:
        """Folder of the split that an image is of; None where there are no splits."""
        del index
        return None

    def path(self, index: int) -> str:
        """Path of an image as the file system has it, unescaped; ``TAR/MEMBER`` in a shard."""
        return self.name(index)

    def nbytes(self, index: int) -> int | None:
        """Length of the encoded image; None if it is not known."""
        del index
        return None

    def content(self, index: int) -> bytes:
        """SHA-256 of an image's encoded bytes; of its decoded pixels where it has no file.

        Raises:
            UnreadableImage: As ``read``.
        """
        pixels = np.asarray(self.image(index, self.short_side(index)))
        return hashlib.sha256(f"{pixels.shape}\n".encode() + pixels.tobytes()).digest()

    def fingerprint(self, *, content: bool = False) -> str:
        """Identifies the images, their order and their labels, wherever their root is.

        Args:
            content: Identify images by their content. Reads every image; by default sizes and
                modification times stand for it, as far as the source has files.

        Returns:
            Two SHA-256 in hex, ``ALL-NAMES``; the second is of paths and labels alone.
        """
        indices = range(len(self))
        names = (f"{self.relative_path(i)}\0{self._class_name(i)}\0" for i in indices)
        states = (self._content_state(i) if content else self._state(i) for i in indices)
        return fingerprint_of(map(_encode, names), states)

    def _state(self, index: int) -> bytes:
        """What identifies an image without reading it."""
        return self._content_state(index)

    def _content_state(self, index: int) -> bytes:
        try:
            return b"content " + self.content(index)
        except UnreadableImage as error:
            return _encode(f"unreadable {error}\0")

    def _class_name(self, index: int) -> str:
        label = self.label(index)
        return "" if label is None else f"/{self.classes[label]}"


class EncodedSource(Source):
    """A source of encoded images, which `ssltool.data.decode` reads by its rules."""

    @abstractmethod
    def encoded(self, index: int) -> ImagePath:
        """The file of an image: its path, or a stream of its bytes.

        Raises:
            UnreadableImage: It is gone, or of a format that cannot be read.
        """

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return read_square(self.encoded(index), size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        return read_stretched(self.encoded(index), size)

    def image(self, index: int, short_side: int) -> Image.Image:
        return fitted(decode(self.encoded(index), short_side), short_side)

    def values(self, index: int) -> NDArray[Any]:
        return read_values(self.encoded(index))

    def jpeg(self, index: int) -> bytes | None:
        try:
            return plain_jpeg(self.encoded(index))
        except UnreadableImage:  # ``read`` says why
            return None

    def short_side(self, index: int) -> int:
        return min(dimensions(self.encoded(index)))


class FilePerImageSource(EncodedSource):
    """A source whose `path` is a file for each image."""

    def encoded(self, index: int) -> ImagePath:
        path = self.path(index)
        check_file(path)
        return path

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def nbytes(self, index: int) -> int | None:
        return file_size(self.path(index))

    def content(self, index: int) -> bytes:
        return file_content(self.path(index))

    def _state(self, index: int) -> bytes:
        return file_state(self.path(index))


class JoinedSource(Source):
    """Several sources, concatenated; classes of the same name are one class.

    Args:
        parts: The sources, at least one.
        folders: The splits of a folder that the parts are, one for each; none by default. Relative
            paths begin with them.
    """

    def __init__(self, parts: Sequence[Source], folders: Sequence[str] = ()) -> None:
        self._parts = tuple(parts)
        self._folders = tuple(folders)
        self._ends = list(accumulate(len(part) for part in parts))
        names = {name for part in parts for name in part.classes}
        self.classes = tuple(sorted(names, key=class_order))
        number = {name: label for label, name in enumerate(self.classes)}
        self._labels = [[number[name] for name in part.classes] for part in parts]
        self.unlisted = {
            folder: reason for part in parts for folder, reason in part.unlisted.items()
        }
        self.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        self.description = " + ".join(part.description for part in parts)
        self.location = os.pathsep.join(part.location for part in parts)
        self.in_order = any(part.in_order for part in parts)
        self.cacheable = all(part.cacheable for part in parts)

    @property
    def chunks(self) -> Sequence[int]:
        if not any(part.chunks for part in self._parts):
            return ()
        ends, start = list[int](), 0
        for part in self._parts:
            # A source without chunks, such as a folder, is divided into some.
            chunks = part.chunks or (*range(_FOLDER_CHUNK, len(part), _FOLDER_CHUNK), len(part))
            ends += [start + end for end in chunks]
            start += len(part)
        return ends

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        part, local = self._locate(index)
        return self._parts[part].read(local, size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        part, local = self._locate(index)
        return self._parts[part].read_whole(local, size)

    def image(self, index: int, short_side: int) -> Image.Image:
        part, local = self._locate(index)
        return self._parts[part].image(local, short_side)

    def values(self, index: int) -> NDArray[Any]:
        part, local = self._locate(index)
        return self._parts[part].values(local)

    def jpeg(self, index: int) -> bytes | None:
        part, local = self._locate(index)
        return self._parts[part].jpeg(local)

    def short_side(self, index: int) -> int:
        part, local = self._locate(index)
        return self._parts[part].short_side(local)

    def name(self, index: int) -> str:
        part, local = self._locate(index)
        return self._parts[part].name(local)

    def label(self, index: int) -> int | None:
        part, local = self._locate(index)
        label = self._parts[part].label(local)
        return None if label is None else self._labels[part][label]

    def relative_path(self, index: int) -> str:
        part, local = self._locate(index)
        relative = self._parts[part].relative_path(local)
        return f"{self._folders[part]}/{relative}" if self._folders else relative

    def split(self, index: int) -> str | None:
        part, local = self._locate(index)
        return self._folders[part] if self._folders else self._parts[part].split(local)

    def path(self, index: int) -> str:
        part, local = self._locate(index)
        return self._parts[part].path(local)

    def nbytes(self, index: int) -> int | None:
        part, local = self._locate(index)
        return self._parts[part].nbytes(local)

    def content(self, index: int) -> bytes:
        part, local = self._locate(index)
        return self._parts[part].content(local)

    def fingerprint(self, *, content: bool = False) -> str:
        parts = [part.fingerprint(content=content).partition("-") for part in self._parts]
        names = [f"{folder}\0" for folder in self._folders] + [own for _, _, own in parts]
        return fingerprint_of(map(_encode, names), (_encode(every) for every, _, _ in parts))

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the source that holds an image, and the index of the image in it."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)


@dataclass(frozen=True)
class Survey:
    """Statistics of a source, estimated from a sample of its images."""

    count: int
    """Images in the source, unreadable ones included."""
    short_side: int
    """Median length in pixels of the sampled images' shorter sides."""
    gray_fraction: float
    """Fraction of the sampled images without color, 0..1."""
    mean: tuple[float, ...]
    """Mean of each channel, such as red, green and blue, 0..1."""
    std: tuple[float, ...]
    """Standard deviation of each channel over all sampled pixels, 0..1."""
    unreadable: dict[str, str]
    """Reason by name of the images that cannot be read and folders that cannot be listed."""


def survey(source: Source, sample: int = 64) -> Survey:
    """Estimate statistics from evenly spaced images, read at 64 px, unless the source knows them.

    If none of them is readable, the first readable ones of the source are used.

    Args:
        source: The images.
        sample: Most images to read.

    Raises:
        DataError: No image of the source can be read.
    """
    if source.surveyed is not None:
        return source.surveyed
    spread = np.unique(
        np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)
    )
    unreadable = dict(source.unlisted)
    readable = list(_read_some(source, spread.tolist(), unreadable))
    if not readable:
        readable = list(islice(_read_some(source, range(len(source)), unreadable), sample))
    if not readable:
        raise unreadable_set(source, unreadable)
    images = np.stack([image for _, image in readable])
    gray = (images == images[..., :1]).all(axis=(1, 2, 3))
    return Survey(
        count=len(source),
        short_side=int(np.median([side for side, _ in readable])),
        gray_fraction=float(gray.mean()),
        mean=tuple((images.mean(axis=(0, 1, 2)) / 255).tolist()),
        std=tuple((images.std(axis=(0, 1, 2)) / 255).tolist()),
        unreadable=unreadable,
    )


_SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256)


def automatic_size(short_side: int) -> int:
    """The largest usual image size that does not enlarge the typical image, 28 to 256 px."""
    return max([size for size in _SIZES if size <= short_side], default=_SIZES[0])


def _read_some(
    source: Source, indices: Iterable[int], unreadable: dict[str, str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield shorter side and pixels of the readable images; add the others to ``unreadable``."""
    for index in indices:
        try:
            yield source.short_side(index), source.read(index, _SURVEY_SIZE)
        except UnreadableImage as error:
            unreadable[source.name(index)] = str(error)


def unreadable_set(source: Source, unreadable: Mapping[str, str]) -> DataError:
    """The error that no image of a source can be read; ``unreadable`` holds reason by name."""
    name, reason = next(
        (name, reason) for name, reason in unreadable.items() if name not in source.unlisted
    )
    where = source.description.partition(" in ")[2] or source.description
    return DataError(
        f"none of the {len(source)} files in {where} can be read as an image; first: {name}: "
        f"{reason}"
    )


def class_order(name: str) -> tuple[int, int, str, str]:
    """Sort key of class names: numbers in numerical order, before words; ties by their text."""
    if name.isascii() and name.isdigit():
        digits = name.lstrip("0")  # compared as text: int() refuses more than 4300 digits
        return 0, len(digits), digits, name
    return 1, 0, "", name


def in_class_order(
    names: Sequence[str], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in NFC and in the order of `class_order`, and labels int64 ``[n]`` for it.

    Args:
        names: Class names as a dataset numbers them.
        labels: int64 ``[n]``, indices into ``names``; negative without a label.

    Raises:
        DataError: A label has no name.
    """
    if len(labels) and labels.max() >= len(names):
        raise DataError(f"an image is of class {labels.max()}, but {len(names)} classes have names")
    order = sorted(range(len(names)), key=lambda number: class_order(nfc(names[number])))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    labeled = labels >= 0
    renumbered = np.full_like(labels, -1)
    renumbered[labeled] = place[labels[labeled]]
    return tuple(nfc(names[number]) for number in order), renumbered


def nfc(name: str) -> str:
    """A name in Unicode's normal form C: equal names from macOS and elsewhere become the same."""
    return unicodedata.normalize("NFC", name)


def fingerprint_of(names: Iterable[bytes], states: Iterable[bytes]) -> str:
    """Two SHA-256 in hex, ``ALL-NAMES``.

    Args:
        names: Names and labels of the images, in order.
        states: What identifies the content of each.
    """
    listing, everything = hashlib.sha256(), hashlib.sha256()
    for name in names:
        listing.update(name)
    everything.update(listing.digest())
    for state in states:
        everything.update(state)
    return f"{everything.hexdigest()}-{listing.hexdigest()}"


def file_state(path: str) -> bytes:
    """Size and modification time of a file, or that there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return b"missing\n"
    return b"%d %d\n" % (status.st_size, status.st_mtime_ns)


def file_size(path: str) -> int | None:
    """Length of a file; None if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def file_content(path: str) -> bytes:
    """SHA-256 of a file.

    Raises:
        UnreadableImage: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UnreadableImage((error.strerror or str(error)).lower()) from error


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
