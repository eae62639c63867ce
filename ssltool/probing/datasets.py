"""Labeled images with a fixed training and test split, shared by all encoders that are compared.

An image's classes are the folder it lies in or what a CSV file lists for it.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.errors import DataError, UsageError
from ssltool.probing.splits import stratified_split

Split = Literal["train", "test"]
Classes = Mapping[int, tuple[str, ...]]
"""Index of an image in its source -> its class names."""

_TEST_FRACTION = 0.2  # of the images, when no test images are given
_UNCERTAIN = "?"  # before a class in a CSV file: the image is ignored for that class


class _Subset(NamedTuple):
    """The images of one split.

    Attributes:
        source: Where they are read from.
        indices: Of the labeled images in the source.
        classes: Of each image.
    """

    source: Source
    indices: list[int]
    classes: Classes


class LabeledImages:
    """A training and a test set of labeled images.

    Args:
        data: Paths or other specifications as typed after ``--data``, or a source with labels.
        test_data: Likewise; if empty, a fifth of ``data`` is held out.
        label_file: CSV file with an image and its classes in each line, see `read_label_file`; by
            default the source's own labels are used.
        seed: Seed of the split.
        batch_size: Images per batch.
        workers: Processes that decode; None decides from the cores.
        device: Where batches go.
        max_images: Use at most about this many images of ``data``, evenly spread.

    Attributes:
        classes: Class names, sorted.
        multilabel: Whether an image may have any number of classes.
        skipped: Name -> reason of images that could not be read.

    Raises:
        DataError: There are fewer than two classes, no images, or test images of unknown classes.
    """

    def __init__(
        self,
        data: Sequence[str] | Source,
        test_data: Sequence[str] | Source = (),
        *,
        label_file: Path | None = None,
        seed: int = 0,
        batch_size: int = 256,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        max_images: int | None = None,
    ) -> None:
        self._batch_size, self._workers, self._device = batch_size, workers, device
        self.skipped: dict[str, str] = {}
        train = _labeled(data, label_file)
        if max_images:
            stride = max(1, -(-len(train.indices) // max_images))
            train = train._replace(indices=train.indices[::stride])
        self.classes = tuple(sorted(_class_names(train)))
        self._label_of = {name: label for label, name in enumerate(self.classes)}
        if len(self.classes) < 2:
            raise DataError(
                f"{train.source.description} has {len(self.classes)} classes with images but "
                "probing needs 2 or more; put the images of each class into a folder of their "
                "own, or name a --label-file"
            )
        self.multilabel = any(_is_multilabel(train.classes[i]) for i in train.indices)
        if isinstance(test_data, Source) or test_data:
            test = _labeled(test_data, label_file)
            self._check_known(test)
            self.multilabel |= any(len(names) != 1 for names in test.classes.values())
        else:
            train, test = self._held_out(train, seed)
        self._subsets: dict[Split, _Subset] = {"train": train, "test": test}
        for split, subset in self._subsets.items():
            if not subset.indices:
                raise DataError(
                    f"there are no labeled {split} images; each class needs images in its folder"
                )

    def count(self, split: Split) -> int:
        """Labeled images of a split, the unreadable ones included."""
        return len(self._subsets[split].indices)

    def fingerprint(self, split: Split) -> str:
        """Identifies the images of a split and their order."""
        source, indices, _ = self._subsets[split]
        return f"{source.fingerprint()}/{_short_hash(torch.tensor(indices).numpy().tobytes())}"

    def label_fingerprint(self) -> str:
        """Identifies the labels of both splits."""
        digest = hashlib.sha256()
        for _, indices, classes in self._subsets.values():
            digest.update("\n".join("\0".join(classes[i]) for i in indices).encode())
            digest.update(b"\n\n")
        return digest.hexdigest()[:16]

    def labels(self, split: Split, indices: Tensor | None = None) -> Tensor:
        """Labels of images with exactly one class each.

        Args:
            split: Which one.
            indices: int64 ``[n]``, into the split; all images if not given.

        Returns:
            int64 ``[n]`` on the CPU.
        """
        _, members, classes = self._subsets[split]
        if indices is not None:
            members = [members[i] for i in indices.tolist()]
        return torch.tensor([self._label_of[classes[member][0]] for member in members])

    def targets(self, split: Split, indices: Tensor) -> Tensor:
        """One-against-the-rest targets.

        Args:
            split: Which one.
            indices: int64 ``[n]``, into the split.

        Returns:
            float32 ``[n, C]`` on the CPU: 1 in the class, -1 not in it, 0 ignored.
        """
        _, members, classes = self._subsets[split]
        targets = torch.full((len(indices), len(self.classes)), -1.0)
        for row, i in enumerate(indices.tolist()):
            for name in classes[members[i]]:
                label = self._label_of[name.removeprefix(_UNCERTAIN)]
                targets[row, label] = 0.0 if name.startswith(_UNCERTAIN) else 1.0
        return targets

    def batches(
        self,
        split: Split,
        size: int,
        *,
        limit: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read a split in order.

        Args:
            split: Which one.
            size: Side S in pixels.
            limit: Read at least this many images, evenly spread, and fewer than twice as many.
            indices: Only these images of the split, in this order.

        Yields:
            uint8 ``[B, 3, S, S]`` on the device, and the indices int64 ``[B]`` of the images in
            the split, on the CPU.
        """
        source, members, _ = self._subsets[split]
        chosen = list(range(len(members))) if indices is None else list(indices)
        if limit is not None:
            chosen = chosen[:: max(1, len(chosen) // limit)]
        index_of = {members[i]: i for i in chosen}
        with AllImages(
            source,
            size=size,
            batch_size=self._batch_size,
            workers=self._workers,
            device=self._device,
            indices=[members[i] for i in chosen],
        ) as images:
            for batch in images:
                yield batch.images, torch.tensor([index_of[i] for i in batch.indices.tolist()])
            self.skipped.update(images.skipped)

    def labeled_batches(
        self, split: Split, size: int, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `batches`, with labels int64 ``[B]`` in place of indices."""
        for images, read in self.batches(split, size, indices=indices):
            yield images, self.labels(split, read)

    def _check_known(self, test: _Subset) -> None:
        unknown = sorted(_class_names(test) - set(self.classes))
        if unknown:
            raise DataError(
                f"--test-data has classes that --data lacks: {', '.join(unknown[:3])}; add images "
                "of them"
            )

    def _held_out(self, train: _Subset, seed: int) -> tuple[_Subset, _Subset]:
        """A fifth of each class is held out; an image with several counts to its first."""
        names = [train.classes[i] for i in train.indices]
        first = [self._label_of[n[0].removeprefix(_UNCERTAIN)] if n else -1 for n in names]
        kept, held = stratified_split(torch.tensor(first), _TEST_FRACTION, seed)
        return (
            train._replace(indices=[train.indices[i] for i in kept.tolist()]),
            train._replace(indices=[train.indices[i] for i in held.tolist()]),
        )


def read_label_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``image,classes`` lines: a path below the data folder, and class names separated by
    ``;``.

    An image may have no class. It is ignored for a class with ``?`` in front, as VOC's difficult
    objects. A first line whose path has no suffix, such as ``file,labels``, is a header.

    Returns:
        Path -> class names.

    Raises:
        UsageError: The file cannot be read, or has another form.
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
        content = f"the line {','.join(wrong)!r}" if wrong else "no line"
        raise UsageError(f"--label-file {path}: {content} found, 'IMAGE,CLASS;CLASS' expected")
    return {
        name.strip().lstrip("./"): tuple(filter(None, map(str.strip, classes.split(";"))))
        for name, classes in rows
    }


def _labeled(data: Sequence[str] | Source, label_file: Path | None) -> _Subset:
    """The labeled images of a source, in its order."""
    source = data if isinstance(data, Source) else open_source(data)
    if label_file is not None:
        classes = _classes_in_file(source, label_file)
    else:
        labels = {index: source.label(index) for index in range(len(source))}
        classes = {i: (source.classes[n],) for i, n in labels.items() if n is not None}
    return _Subset(source, sorted(classes), classes)


def _classes_in_file(source: Source, label_file: Path) -> dict[int, tuple[str, ...]]:
    """Classes of the images that a label file lists.

    Its paths may begin at any folder above an image, so the longest suffix of the image's path
    that is listed counts.
    """
    listed, classes = read_label_file(label_file), dict[int, tuple[str, ...]]()
    for index in range(len(source)):
        parts = source.name(index).split("/")
        suffixes = ("/".join(parts[start:]) for start in range(len(parts)))
        suffix = next((suffix for suffix in suffixes if suffix in listed), None)
        if suffix is not None:
            classes[index] = listed[suffix]
    if not classes:
        raise DataError(
            f"none of the {len(source)} images of {source.description} is in {label_file}"
        )
    return classes


def _class_names(subset: _Subset) -> set[str]:
    return {name.removeprefix(_UNCERTAIN) for i in subset.indices for name in subset.classes[i]}


def _is_multilabel(names: tuple[str, ...]) -> bool:
    return len(names) != 1 or names[0].startswith(_UNCERTAIN)


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
