"""Check a set of images: sizes, classes, gray, unreadable and duplicate images."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from ssltool.data.sources.registry import DataSpec, open_source
from ssltool.errors import UnreadableImage

_SIZE = 32  # px at which images are compared


class SideStatistics(BaseModel):
    """Lengths in pixels of the shorter sides of images."""

    model_config = ConfigDict(frozen=True)

    min: int
    median: int
    max: int


class CheckResult(BaseModel):
    """What `check` counted.

    Attributes:
        images: Number of images, unreadable ones included.
        readable: Number of images that can be decoded.
        classes: Number of readable images per class.
        short_side: Of the readable images; None if there are none.
        gray: Readable images without color.
        unreadable: Reason by name, of images and folders.
        duplicates: Groups of names whose images are equal at 32 px.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    readable: int
    classes: dict[str, int]
    short_side: SideStatistics | None
    gray: int
    unreadable: dict[str, str]
    duplicates: list[list[str]]


def check(data: DataSpec | Sequence[DataSpec], console: Console) -> CheckResult:
    """Decode every image and count what there is.

    Args:
        data: The images, see `ssltool.data.sources.registry.open_source`.
        console: Where progress is shown.

    Raises:
        UsageError, DataError: The images cannot be opened.
    """
    source = open_source(data)
    sides, gray, unreadable = list[int](), 0, dict(source.unlisted)
    labels: Counter[str] = Counter()
    names_by_hash: defaultdict[bytes, list[str]] = defaultdict(list)
    indices = range(len(source))
    for index in track(indices, "decoding", console=console, disable=console.quiet, transient=True):
        name = source.name(index)
        try:
            side, pixels = source.short_side(index), source.read(index, _SIZE)
        except UnreadableImage as error:
            unreadable[name] = str(error)
            continue
        sides.append(side)
        gray += bool((pixels == pixels[..., :1]).all())
        names_by_hash[hashlib.sha256(pixels.tobytes()).digest()].append(name)
        label = source.label(index)
        if label is not None:
            labels[source.classes[label]] += 1
    return CheckResult(
        images=len(source),
        readable=len(sides),
        classes=dict(sorted(labels.items())),
        short_side=_statistics(sides) if sides else None,
        gray=gray,
        unreadable=unreadable,
        duplicates=[names for names in names_by_hash.values() if len(names) > 1],
    )


def _statistics(sides: list[int]) -> SideStatistics:
    return SideStatistics(min=min(sides), median=int(np.median(sides)), max=max(sides))
