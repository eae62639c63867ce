"""`survey`: statistics of a source, estimated from a sample of its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ssltool.data.sources.base import Source, Survey
from ssltool.errors import DataError, UnreadableImage

_SURVEY_SIZE = 64
_SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256)


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
