"""Check a set of images: sizes, classes, gray, unreadable and duplicate images."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from ssltool.data.channels import measured
from ssltool.data.ranges import AUTO
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import ChannelSource
from ssltool.data.sources.registry import DataSpec, open_source
from ssltool.data.sources.same import require_same_images
from ssltool.distributed.collectives import is_main
from ssltool.distributed.parts import divided_work, gathered, own_part
from ssltool.errors import UnreadableImage

_SIZE = 32  # px at which images are compared


class SideStatistics(BaseModel):
    """Lengths in pixels of the shorter sides of images."""

    model_config = ConfigDict(frozen=True)

    min: int
    median: int
    max: int


class SplitCounts(BaseModel):
    """Images of one split.

    Attributes:
        images: Number of images, unreadable ones included.
        readable: Number of images that can be decoded.
        classes: Number of readable images per class.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    readable: int
    classes: dict[str, int]


class CheckResult(BaseModel):
    """What `check` counted.

    Attributes:
        notes: What was left out or decided when the images were opened, one line each.
        images: Number of images, unreadable ones included.
        readable: Number of images that can be decoded.
        classes: Number of readable images per class; of classes without any, 0.
        splits: The same of each split, by the name of its folder; empty without splits.
        short_side: Of the readable images; None if there are none.
        gray: Readable images without color.
        unreadable: Reason by name, of images and folders.
        duplicates: Groups of names whose images are equal at 32 px.
    """

    model_config = ConfigDict(frozen=True)

    notes: tuple[str, ...]
    images: int
    readable: int
    classes: dict[str, int]
    splits: dict[str, SplitCounts]
    short_side: SideStatistics | None
    gray: int
    unreadable: dict[str, str]
    duplicates: list[list[str]]


class _Seen(NamedTuple):
    """What is noted of a readable image: shorter side in pixels, whether it is gray, and a hash of
    its pixels.
    """

    side: int
    gray: bool
    hash: str


def check(
    data: DataSpec | Sequence[DataSpec], console: Console, channels: int | None = None
) -> CheckResult | None:
    """Decode every image and count what there is.

    Processes that torchrun started decode a part of the images each.

    Args:
        data: The images, see `ssltool.data.sources.registry.open_source`.
        console: Where progress is shown.
        channels: Read files as they are, with so many channels; as RGB if None.

    Returns:
        What there is; None in all processes but the first.

    Raises:
        UsageError, DataError: The images cannot be opened.
    """
    with divided_work(console) as console:
        source = open_source(data, arrays=channels is not None)
        require_same_images(source)
        if channels is not None:
            source = ChannelSource(source, measured(source, channels, AUTO))
        part = track(
            own_part(len(source)),
            "decoding",
            console=console,
            disable=console.quiet,
            transient=True,
        )
        parts = gathered([_inspect(source, index) for index in part])
    return _summarize(source, chain.from_iterable(parts)) if is_main() else None


def _inspect(source: Source, index: int) -> _Seen | str:
    """Decode an image; why it cannot be read, if it cannot."""
    try:
        side, pixels = source.short_side(index), source.read(index, _SIZE)
    except UnreadableImage as error:
        return str(error)
    gray = source.channels == 3 and bool((pixels == pixels[..., :1]).all())
    return _Seen(side, gray, hashlib.sha256(pixels.tobytes()).hexdigest())


def _summarize(source: Source, images: Iterable[_Seen | str]) -> CheckResult:
    """Count what was seen of the images of a source, in its order."""
    sides, gray, unreadable = list[int](), 0, dict(source.unlisted)
    counts = _Counts(source)
    names_by_hash: defaultdict[str, list[str]] = defaultdict(list)
    for index, seen in enumerate(images):
        counts.add(index, readable=not isinstance(seen, str))
        if isinstance(seen, str):
            unreadable[source.name(index)] = seen
            continue
        side, is_gray, digest = seen
        sides.append(side)
        gray += is_gray
        names_by_hash[digest].append(source.name(index))
    return CheckResult(
        notes=source.notes,
        images=len(source),
        readable=len(sides),
        classes=counts.classes(),
        splits=counts.splits(),
        short_side=_statistics(sides) if sides else None,
        gray=gray,
        unreadable=unreadable,
        duplicates=[names for names in names_by_hash.values() if len(names) > 1],
    )


class _Counts:
    """Images by split, class and whether they can be read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._of = Counter[tuple[str | None, int | None, bool]]()

    def add(self, index: int, *, readable: bool) -> None:
        self._of[self._source.split(index), self._source.label(index), readable] += 1

    def classes(self, split: str | None = None) -> dict[str, int]:
        """Readable images of each class, of one split or of all."""
        counts = dict.fromkeys(self._source.classes, 0)
        for (of, label, readable), count in self._of.items():
            if label is not None and split in (None, of):
                counts[self._source.classes[label]] += count * readable
        return counts

    def splits(self) -> dict[str, SplitCounts]:
        """What there is of each split, in the order of the source."""
        splits = dict[str, SplitCounts]()
        for split in dict.fromkeys(split for split, _, _ in self._of if split is not None):
            images = {key: count for key, count in self._of.items() if key[0] == split}
            splits[split] = SplitCounts(
                images=sum(images.values()),
                readable=sum(count for (_, _, readable), count in images.items() if readable),
                classes=self.classes(split),
            )
        return splits


def _statistics(sides: list[int]) -> SideStatistics:
    return SideStatistics(min=min(sides), median=int(np.median(sides)), max=max(sides))
