"""`Source`: an indexable list of images with optional labels; `survey` samples its statistics."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.errors import DataError, UnreadableImage

ACCEPTED = (
    "give a folder of images, shards/{0000..0099}.tar, torchvision:NAME@ROOT, demo[:N] or "
    "demo-test[:N]"
)
_SURVEY_SIZE = 64
_FOLDER_CHUNK = 4096


class Source(ABC):
    """An indexable list of images. An index gives the same image at any time, in any process."""

    classes: tuple[str, ...] = ()
    """Class names by label; empty without labels."""

    description: str = ""
    """What and where the images are, on one line, for people."""

    unlisted: Mapping[str, str] = {}
    """Reason by path of the folders that cannot be listed; their images are not in the source."""

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

        Raises:
            UnreadableImage: With a short reason that does not name the image.
        """

    def image(self, index: int, short_side: int) -> Image.Image:
        """One whole image, mode ``"RGB"``, with a shorter side of at most ``short_side`` px.

        Raises:
            UnreadableImage: As ``read``.
        """
        return Image.fromarray(self.read(index, short_side))

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

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 in hex that identifies the images and their order."""


class JoinedSource(Source):
    """Several sources, concatenated; classes of the same name are one class.

    Args:
        parts: The sources, at least one.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        self.classes = tuple(sorted({name for part in parts for name in part.classes}))
        number = {name: label for label, name in enumerate(self.classes)}
        self._labels = [[number[name] for name in part.classes] for part in parts]
        self.unlisted = {
            folder: reason for part in parts for folder, reason in part.unlisted.items()
        }
        self.description = " + ".join(part.description for part in parts)

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

    def image(self, index: int, short_side: int) -> Image.Image:
        part, local = self._locate(index)
        return self._parts[part].image(local, short_side)

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

    def fingerprint(self) -> str:
        return fingerprint_of(len(self), *(part.fingerprint().encode() for part in self._parts))

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
    mean: tuple[float, float, float]
    """Mean of red, green and blue, each 0..1."""
    std: tuple[float, float, float]
    """Standard deviation of red, green and blue over all sampled pixels, each 0..1."""
    unreadable: dict[str, str]
    """Reason by name of the images that cannot be read and folders that cannot be listed."""


def survey(source: Source, sample: int = 64) -> Survey:
    """Estimate statistics from evenly spaced images, read at 64 px.

    If none of them is readable, the first readable image of the source is used.

    Args:
        source: The images.
        sample: Most images to read.

    Raises:
        DataError: No image of the source can be read.
    """
    spread = np.unique(
        np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)
    )
    unreadable = dict(source.unlisted)
    readable = list(_read_some(source, spread.tolist(), unreadable))
    readable = readable or list(islice(_read_some(source, range(len(source)), unreadable), 1))
    if not readable:
        name, reason = next(
            (name, reason) for name, reason in unreadable.items() if name not in source.unlisted
        )
        where = source.description.partition(" in ")[2] or source.description
        raise DataError(
            f"none of the {len(source)} files in {where} can be read as an image; first: {name}: "
            f"{reason}"
        )
    images = np.stack([image for _, image in readable])
    gray = (images == images[..., :1]).all(axis=(1, 2, 3))
    return Survey(
        count=len(source),
        short_side=int(np.median([side for side, _ in readable])),
        gray_fraction=float(gray.mean()),
        mean=_rgb(images.mean(axis=(0, 1, 2)) / 255),
        std=_rgb(images.std(axis=(0, 1, 2)) / 255),
        unreadable=unreadable,
    )


def _read_some(
    source: Source, indices: Iterable[int], unreadable: dict[str, str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield shorter side and pixels of the readable images; add the others to ``unreadable``."""
    for index in indices:
        try:
            yield source.short_side(index), source.read(index, _SURVEY_SIZE)
        except UnreadableImage as error:
            unreadable[source.name(index)] = str(error)


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def fingerprint_of(count: int, *parts: bytes) -> str:
    """SHA-256 in hex of a number of images and of bytes that identify them."""
    digest = hashlib.sha256(f"{count}\n".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
