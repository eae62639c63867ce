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
from numpy.typing import NDArray

from ssltool.data.ranges import Range, parse_range
from ssltool.data.sources.base import Source
from ssltool.data.sources.survey import unreadable_set
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
            raise UnreadableImage(f"{count_of(found)}; expected {expected}")
        if values.dtype.name != self.value_type:
            raise UnreadableImage(f"values of {values.dtype.name}; expected {self.value_type}")

    @property
    def are_bytes(self) -> bool:
        """Whether values are the bytes already."""
        return self.value_type == "uint8" and set(self.ranges) == {(0.0, 255.0)}

    def levels(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values ``[H, W, C]`` on the scale 0..255, float32."""
        low, high = np.array(self.ranges, np.float64).T
        # Float64 where float32 would round integers of 32 bits.
        wide = np.result_type(values.dtype, np.float32)
        levels = (values.astype(wide) - low.astype(wide)) * (255 / (high - low)).astype(wide)
        levels[~np.isfinite(levels)] = 0
        clipped: NDArray[np.float32] = np.clip(levels, 0, 255).astype(np.float32)
        return clipped


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
            found = count_of(values.shape[2])
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


def count_of(count: int) -> str:
    """A number of channels in words."""
    return f"{count} channel{'s' * (count != 1)}"
