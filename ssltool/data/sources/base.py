"""`Source`: an indexable list of images with optional labels, and what its classes share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import decode, read_square, read_stretched
from ssltool.data.decode_jpeg import plain_jpeg
from ssltool.data.opening import ImagePath, dimensions
from ssltool.data.resizing import fitted, square, stretched
from ssltool.data.sources.fingerprints import (
    encode,
    file_content,
    file_size,
    file_state,
    fingerprint_of,
)
from ssltool.data.sources.formats import check_file
from ssltool.data.sources.locations import printable
from ssltool.data.values import read_values
from ssltool.errors import UnreadableImage


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
    """Channels that are read; R, G and B, unless files are read as they are."""

    notes: tuple[str, ...] = ()
    """What was left out or decided when the source was opened, one line each, for people."""

    surveyed: Survey | None = None
    """Statistics that are known without reading images; see `ssltool.data.sources.survey`."""

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
        return fingerprint_of(map(encode, names), states)

    def _state(self, index: int) -> bytes:
        """What identifies an image without reading it."""
        return self._content_state(index)

    def _content_state(self, index: int) -> bytes:
        try:
            return b"content " + self.content(index)
        except UnreadableImage as error:
            return encode(f"unreadable {error}\0")

    def _class_name(self, index: int) -> str:
        label = self.label(index)
        return "" if label is None else f"/{self.classes[label]}"


class PixelSource(Source):
    """A source that has the pixels of its images, not their files."""

    @abstractmethod
    def pixels(self, index: int) -> NDArray[np.uint8]:
        """One whole image, uint8 ``[H, W, 3]``, RGB.

        Raises:
            UnreadableImage: As ``read``.
        """

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return square(self.pixels(index), size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        return stretched(self.pixels(index), size)

    def image(self, index: int, short_side: int) -> Image.Image:
        return fitted(Image.fromarray(self.pixels(index)), short_side)


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
