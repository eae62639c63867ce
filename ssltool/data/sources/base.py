"""What a set of images is: a numbered list that can be read at any square size, with optional class
labels.

`ssltool.data.sources.registry` turns what was typed after ``--data`` into a `Source`; `survey` looks at a few
of its images.
"""

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

ACCEPTED = "give a folder of images, shards/{0000..0099}.tar, torchvision:NAME@ROOT, demo[:N] or demo-test[:N]"
_SURVEY_SIZE = 64
_PIECE = 4096


class Source(ABC):
    """A numbered list of images. What it returns for an index never changes, in any process."""

    classes: tuple[str, ...] = ()
    """Class names in the order of the label numbers; empty without labels."""

    description: str = ""
    """One line for people: what and where it is."""

    unlisted: Mapping[str, str] = {}
    """Folders that could not be looked into, with the reason; their images are not in the list."""

    @property
    def chunks(self) -> Sequence[int]:
        """Where stretches of images end that are better read together, such as shards: rising, up
        to the length.

        Empty if any order of reading is as good; see `ssltool.data.sampler`.
        """
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images, the unreadable ones included."""

    @abstractmethod
    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        """One image as uint8 ``[size, size, 3]``, RGB.

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
        """What to call an image in a message; printable, on one line."""

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Number of an image's class in ``classes``, or None where it has none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 in hex of what makes this list this list; equal means the same images in the same
        order.
        """


class JoinedSource(Source):
    """Several sources one after the other; classes of the same name are one class.

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
        for part in self._parts:  # a folder beside shards takes part in their order in pieces
            ends += [
                start + end for end in part.chunks or (*range(_PIECE, len(part), _PIECE), len(part))
            ]
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
        """Number of the part that holds an image, and the image's index there."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)


@dataclass(frozen=True)
class Survey:
    """What a look at some images of a source tells about all of them."""

    count: int
    """Images in the source, unreadable ones included."""
    short_side: int
    """Median length in pixels of the sampled images' shorter sides."""
    gray_fraction: float
    """Share of the sampled images, 0 to 1, without any color."""
    mean: tuple[float, float, float]
    """Mean of red, green and blue, each 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of red, green and blue over all sampled pixels, each 0 to 1."""
    unreadable: dict[str, str]
    """Name and reason of the sampled images that cannot be read, and of folders that cannot be
    listed.
    """


def survey(source: Source, sample: int = 64) -> Survey:
    """Read a sample of a source's images, evenly spread over it, at 64 px.

    If none of the sample is readable, the source is searched for one image that is.

    Args:
        source: The images.
        sample: How many to read at most.

    Raises:
        DataError: Not one image of the whole source can be read.
    """
    spread = np.unique(
        np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)
    )
    unreadable = dict(source.unlisted)
    looks = list(_look(source, spread.tolist(), unreadable))
    looks = looks or list(islice(_look(source, range(len(source)), unreadable), 1))
    if not looks:
        name, reason = next(
            (name, reason) for name, reason in unreadable.items() if name not in source.unlisted
        )
        where = source.description.partition(" in ")[2] or source.description
        raise DataError(
            f"none of the {len(source)} files in {where} can be read as an image; first: {name}: "
            f"{reason}"
        )
    images = np.stack([image for _, image in looks])
    gray = (images == images[..., :1]).all(axis=(1, 2, 3))
    return Survey(
        count=len(source),
        short_side=int(np.median([side for side, _ in looks])),
        gray_fraction=float(gray.mean()),
        mean=_rgb(images.mean(axis=(0, 1, 2)) / 255),
        std=_rgb(images.std(axis=(0, 1, 2)) / 255),
        unreadable=unreadable,
    )


def _look(
    source: Source, indices: Iterable[int], unreadable: dict[str, str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield shorter side and pixels of the readable ones among some images; note the others."""
    for index in indices:
        try:
            yield source.short_side(index), source.read(index, _SURVEY_SIZE)
        except UnreadableImage as error:
            unreadable[source.name(index)] = str(error)


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def fingerprint_of(count: int, *parts: bytes) -> str:
    """SHA-256 in hex of a number of images and of what tells them apart."""
    digest = hashlib.sha256(f"{count}\n".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
