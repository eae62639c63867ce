"""Labeled images, split into training and test once, for all encoders alike.

A label is the folder that an image lies in or what a CSV file says of it, with any number of
classes for each image.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.device import best_device
from ssltool.errors import DataError, UsageError
from ssltool.probing import linear

Split = Literal["train", "test"]

_TEST_SHARE = 0.2  # of the images, when no test images are given
_UNSURE = "?"  # before a class in a CSV file: the image is left out of that class


class LabeledImages:
    """Two lists of labeled images.

    Args:
        data: Where the images are.
        test_data: Where the test images are; if empty, a fifth of ``data`` is held out.
        label_file: CSV file with an image and its classes in each line, see `read_label_file`; else
            folders are classes.
        seed: Of the split.
        batch_size: Images read at a time.
        workers: Processes that decode; None decides from the cores.
        most: Only about so many images of ``data``, evenly spread.

    Attributes:
        classes: Class names.
        several: Whether an image may have any number of classes.
        skipped: Name and reason of images that could not be read.

    Raises:
        DataError: There are fewer than two classes, no images, or test images of unknown classes.
    """

    def __init__(
        self,
        data: tuple[str, ...],
        test_data: tuple[str, ...] = (),
        *,
        label_file: Path | None = None,
        seed: int = 0,
        batch_size: int = 256,
        workers: int | None = None,
        most: int | None = None,
    ) -> None:
        self._batch_size, self._workers = batch_size, workers
        self.skipped: dict[str, str] = {}
        source = open_source(data)
        found = _classes_of(source, label_file)
        places = sorted(found)
        places = places[:: -(-len(places) // most)] if most and places else places
        names = {name.removeprefix(_UNSURE) for place in places for name in found[place]}
        self.classes = tuple(sorted(names))
        if len(self.classes) < 2:
            raise DataError(
                f"{source.description} has {len(self.classes)} classes with images but probing "
                "needs 2 or more; "
                "put the images of each class into a folder of their own, or name a --label-file"
            )
        self.several = any(
            len(found[place]) != 1 or found[place][0].startswith(_UNSURE) for place in places
        )
        if test_data:
            tested = open_source(test_data)
            asked = _classes_of(tested, label_file)
            unknown = sorted(
                {n.removeprefix(_UNSURE) for names in asked.values() for n in names}
                - set(self.classes)
            )
            if unknown:
                raise DataError(
                    f"--test-data has classes that --data lacks: {', '.join(unknown[:3])}; add "
                    "images of them"
                )
            self.several = self.several or any(len(names) != 1 for names in asked.values())
            self._splits = {
                "train": (source, places, found),
                "test": (tested, sorted(asked), asked),
            }
        else:
            number = {name: i for i, name in enumerate(self.classes)}
            firsts = torch.tensor(
                [number[found[p][0].removeprefix(_UNSURE)] if found[p] else -1 for p in places]
            )
            kept, held = linear.split(firsts, _TEST_SHARE, seed)
            self._splits = {
                "train": (source, [places[i] for i in kept.tolist()], found),
                "test": (source, [places[i] for i in held.tolist()], found),
            }
        for split, (_, chosen, _) in self._splits.items():
            if not chosen:
                raise DataError(
                    f"there are no labeled {split} images; each class needs images in its folder"
                )

    def count(self, split: Split) -> int:
        """Labeled images of a split, the unreadable ones included."""
        return len(self._splits[split][1])

    def fingerprint(self, split: Split) -> str:
        """A name for the images of a split and their order."""
        source, places, _ = self._splits[split]
        numbers = torch.tensor(places).numpy().tobytes()
        return f"{source.fingerprint()}/{hash_of(numbers)}"

    def labels(self, split: Split, rows: Tensor | None = None) -> Tensor:
        """Classes int64 ``[n]`` of the images of a split, or of the given places in it; each has
        exactly one.
        """
        _, places, found = self._splits[split]
        number = {name: i for i, name in enumerate(self.classes)}
        chosen = places if rows is None else [places[i] for i in rows.tolist()]
        return torch.tensor([number[found[place][0]] for place in chosen])

    def targets(self, split: Split, rows: Tensor) -> Tensor:
        """Targets float32 ``[n, C]`` of places in a split: 1 in the class, -1 not in it, 0 left out
        of it.
        """
        _, places, found = self._splits[split]
        number = {name: i for i, name in enumerate(self.classes)}
        targets = torch.full((len(rows), len(self.classes)), -1.0)
        for row, i in enumerate(rows.tolist()):
            for name in found[places[i]]:
                targets[row, number[name.removeprefix(_UNSURE)]] = (
                    0.0 if name.startswith(_UNSURE) else 1.0
                )
        return targets

    def read(
        self, split: Split, size: int, most: int | None = None, only: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split: uint8 ``[B, 3, size, size]`` on the device and their places in the
        split, int64 ``[B]``.

        Args:
            split: Which one.
            size: Side in pixels.
            most: Only about so many images, evenly spread.
            only: Only the images at these places in the split, in this order.
        """
        source, places, _ = self._splits[split]
        rows = list(range(len(places))) if only is None else list(only)
        if most is not None:
            rows = rows[:: max(1, len(rows) // most)]
        row_of = {places[row]: row for row in rows}
        with AllImages(
            source,
            size=size,
            batch_size=self._batch_size,
            workers=self._workers,
            device=best_device(),
            indices=[places[row] for row in rows],
        ) as images:
            for batch in images:
                yield (
                    batch.images,
                    torch.tensor([row_of[place] for place in batch.indices.tolist()]),
                )
            self.skipped.update(images.skipped)


def read_label_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``image,classes`` lines: a path below the data folder, and class names separated by
    ``;``.

    No class is fine. A class with ``?`` before it is one that the image is neither counted in nor
    out of, as VOC's difficult objects. A first line ``file,labels`` (or the like) is a heading if
    no image is called so.

    Raises:
        UsageError: The file cannot be read, or is not of this form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"--label-file {path}: {reason}; lines such as 'dogs/1.jpg,dog;grass' are expected"
        ) from error
    if rows and not PurePosixPath(rows[0][0]).suffix:
        rows = rows[1:]
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None or not rows:
        found = f"the line {','.join(wrong)!r}" if wrong else "no line"
        raise UsageError(f"--label-file {path}: {found} found, 'PICTURE,CLASS;CLASS' expected")
    return {
        row[0].strip().lstrip("./"): tuple(
            name for name in (part.strip() for part in row[1].split(";")) if name
        )
        for row in rows
    }


def hash_of(data: bytes) -> str:
    """A short name for bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def _classes_of(source: Source, label_file: Path | None) -> dict[int, tuple[str, ...]]:
    """Place of each labeled image -> its classes."""
    if label_file is None:
        labels = ((place, source.label(place)) for place in range(len(source)))
        return {place: (source.classes[label],) for place, label in labels if label is not None}
    told, found = read_label_file(label_file), dict[int, tuple[str, ...]]()
    for place in range(len(source)):
        parts = source.name(place).split("/")
        # The longest end of the path that the file knows: its paths may begin at any folder above
        # the image.
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        known = next((end for end in ends if end in told), None)
        if known is not None:
            found[place] = told[known]
    if not found:
        raise DataError(
            f"none of the {len(source)} images of {source.description} is in {label_file}"
        )
    return found
