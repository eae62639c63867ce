"""Images as they are: channels of any number and type, mapped to bytes by ranges of the data.

Values between the ends of a channel's range become 0 to 255 linearly, others its ends; NaN and
infinity become the lower end. The ranges are those of the whole set, never of an image: a bright
image stays brighter than a dark one. All images have one number of channels and one type of values;
others are unreadable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from ssltool.data.decode import square, stretched
from ssltool.data.ranges import Range, parse_range
from ssltool.data.sources.base import Source, fingerprint_of, unreadable_set
from ssltool.errors import UnreadableImage

PERCENTILES = (0.1, 99.9)
"""Of the values of a sample, at which ranges begin and end unless they are stated."""
_SAMPLED = 64  # images
_VALUES = 2**16  # of a channel of an image


class Described(Protocol):
    """What says how images are read, such as metadata of weights."""

    @property
    def value_range(self) -> tuple[Range, ...] | None:
        """Ends of the range of each channel; None for RGB images."""

    @property
    def value_type(self) -> str | None:
        """Type of the values."""


@dataclass(frozen=True)
class Channels:
    """How values become bytes.

    Attributes:
        ranges: Values of each channel that become 0 and 255.
        value_type: Type of the values, such as ``uint16``.
    """

    ranges: tuple[Range, ...]
    value_type: str

    @classmethod
    def of(cls, described: Described) -> Channels | None:
        """How the images of a run or of weights are read; None for RGB."""
        if described.value_range is None:
            return None
        return cls(described.value_range, described.value_type or "")

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> Channels:
        """From the dictionary that `dataclasses.asdict` gives, JSON in between."""
        ranges = tuple((float(low), float(high)) for low, high in fields["ranges"])
        return cls(ranges, fields["value_type"])

    def check(self, values: NDArray[Any]) -> None:
        """Refuse values ``[H, W, C]`` of other channels or another type.

        Raises:
            UnreadableImage: They are.
        """
        found, expected = values.shape[2], len(self.ranges)
        if found != expected:
            raise UnreadableImage(f"{_channels(found)}; expected {expected}")
        if values.dtype.name != self.value_type:
            raise UnreadableImage(f"values of {values.dtype.name}; expected {self.value_type}")

    @property
    def are_bytes(self) -> bool:
        """Whether values are the bytes already."""
        return self.value_type == "uint8" and set(self.ranges) == {(0.0, 255.0)}

    def levels(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values ``[H, W, C]`` on the scale 0..255, float32."""
        low, high = np.array(self.ranges, np.float64).T
        # In float64 where float32 would round integers of 32 bits.
        wide = np.float64 if values.dtype.itemsize > 2 and values.dtype.kind != "f" else np.float32
        levels = (values.astype(wide) - low.astype(wide)) * (255 / (high - low)).astype(wide)
        levels[~np.isfinite(levels)] = 0
        return np.clip(levels, 0, 255).astype(np.float32)


class ChannelSource(Source):
    """A source whose images are read as they are: bytes of N channels, see `Channels`.

    Args:
        source: Of files or arrays.
        how: Ranges and type.
    """

    def __init__(self, source: Source, how: Channels) -> None:
        self._source, self.how = source, how
        self.channels = len(how.ranges)
        self.description, self.location = source.description, source.location
        self.cacheable, self.unlisted = source.cacheable, source.unlisted
        self.notes = source.notes

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # lazy, as labels may be slow
        return self._source.classes

    @property
    def chunks(self) -> Sequence[int]:
        return self._source.chunks

    def __len__(self) -> int:
        return len(self._source)

    def values(self, index: int) -> NDArray[Any]:
        values = self._source.values(index)
        self.how.check(values)
        return values

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        values = self.values(index)
        if self.how.are_bytes:
            return square(values, size)
        height, width = values.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return self._resized(values[top : top + side, left : left + side], size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        values = self.values(index)
        if self.how.are_bytes:
            return stretched(values, size)
        return self._resized(values, size), values.shape[1] / values.shape[0]

    def image(self, index: int, short_side: int) -> Image.Image:
        raise UnreadableImage(f"{_channels(self.channels)}, which no image of RGB holds")

    def short_side(self, index: int) -> int:
        return int(min(self.values(index).shape[:2]))

    def name(self, index: int) -> str:
        return self._source.name(index)

    def label(self, index: int) -> int | None:
        return self._source.label(index)

    def relative_path(self, index: int) -> str:
        return self._source.relative_path(index)

    def split(self, index: int) -> str | None:
        return self._source.split(index)

    def path(self, index: int) -> str:
        return self._source.path(index)

    def nbytes(self, index: int) -> int | None:
        return self._source.nbytes(index)

    def content(self, index: int) -> bytes:
        return self._source.content(index)

    def fingerprint(self, *, content: bool = False) -> str:
        """Of the images, and of how they are read."""
        own, _, names = self._source.fingerprint(content=content).partition("-")
        everything = fingerprint_of([repr(self.how).encode()], [own.encode()])
        return f"{everything.partition('-')[0]}-{names}"

    def _resized(self, values: NDArray[Any], size: int) -> NDArray[np.uint8]:
        """Bytes ``[size, size, C]``, bilinear with antialiasing, rounded once at the end."""
        levels = torch.from_numpy(self.how.levels(values)).permute(2, 0, 1)[None]
        if levels.shape[-2:] != (size, size):
            levels = F.interpolate(levels, (size, size), mode="bilinear", antialias=True)
        resized: NDArray[np.uint8] = (
            levels[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
        )
        return resized


def as_they_are(source: Source, how: Channels | None) -> Source:
    """A source whose images are read like those of a run or of weights; RGB if None."""
    if how is None or isinstance(source, ChannelSource):
        return source
    return ChannelSource(source, how)


def measured(source: Source, channels: int, value_range: str) -> Channels:
    """Decide how the images of a new run are read, from a sample that is evenly spaced over them.

    Args:
        source: The images, opened as files.
        channels: N.
        value_range: See `parse_range`.

    Raises:
        DataError: No image of the sample has N channels.
        UsageError: The ranges are wrong.
    """
    stated = parse_range(value_range, channels)
    spread = np.unique(np.linspace(0, len(source) - 1, min(_SAMPLED, len(source))).astype(int))
    read, unreadable = _sampled(source, spread.tolist(), channels)
    if not read:
        raise unreadable_set(source, unreadable)
    [(value_type, _)] = Counter(part.dtype.name for part in read).most_common(1)
    if stated is not None:
        return Channels(stated, value_type)
    if value_type == "uint8":
        return Channels(((0.0, 255.0),) * channels, value_type)
    values = np.concatenate([part for part in read if part.dtype.name == value_type])
    return Channels(tuple(_range(values[:, i]) for i in range(channels)), value_type)


def _sampled(
    source: Source, indices: Sequence[int], channels: int
) -> tuple[list[NDArray[Any]], dict[str, str]]:
    """Values ``[n, N]`` of some images, thinned, and reason by name of those without."""
    read, unreadable = list[NDArray[Any]](), dict[str, str]()
    for index in indices:
        try:
            values = source.values(index)
        except UnreadableImage as error:
            unreadable[source.name(index)] = str(error)
            continue
        if values.shape[2] != channels:
            found = _channels(values.shape[2])
            unreadable[source.name(index)] = f"{found}; --channels {channels} was typed"
            continue
        flat = values.reshape(-1, channels)
        read.append(flat[:: max(1, len(flat) // _VALUES)].copy())
    return read, unreadable


def _range(values: NDArray[Any]) -> Range:
    """Percentiles of the finite values of a channel; never empty."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return 0.0, 1.0
    for low, high in (np.percentile(finite, PERCENTILES), (finite.min(), finite.max())):
        if low < high:
            return float(low), float(high)
    return float(finite[0]), float(finite[0]) + 1.0


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"


