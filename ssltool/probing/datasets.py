"""Labeled images with a fixed training and test split, shared by all encoders that are compared.

An image's classes are the folder it lies in or what a CSV file lists for it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssltool.data.channels import Channels
from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.class_names import class_order
from ssltool.data.sources.registry import Part, open_source, splits_of
from ssltool.errors import DataError, UnreadableImage, UsageError
from ssltool.probing.label_file import ClassLabel, LabelFile, Labels
from ssltool.probing.splits import stratified_split

Split = Literal["train", "test"]

_TEST_FRACTION = 0.2  # of the images, when no test images are given
_KEPT = 2**29  # bytes of decoded images that are kept: several passes then read every file once
_NAMED = 3  # names of images that a note gives


class _Subset(NamedTuple):
    """The images of one split.

    Attributes:
        source: Where they are read from.
        indices: Of the labeled images in the source.
        labels: Classes of each image.
    """

    source: Source
    indices: list[int]
    labels: Labels

    def at(self, positions: Sequence[int]) -> _Subset:
        """Some of the images."""
        return self._replace(indices=[self.indices[i] for i in positions])


class SourceRows(NamedTuple):
    """Images of a source.

    Attributes:
        source: The images.
        indices: int64 ``[n]``, which of them.
    """

    source: Source
    indices: Tensor


class LabeledImages:
    """A training and a test set of labeled images.

    A folder that holds nothing but splits, such as ``train/`` and ``test/``, stands for both sets;
    ``test/`` is the test set, or ``val/`` without it. Duplicates of one file are never on both
    sides of a split that is made here.

    Args:
        data: Paths or other specifications as typed after ``--data``, or a source with labels.
        test_data: Likewise; if empty, a fifth of ``data`` is held out.
        label_file: CSV file with an image and its classes in each line, see `LabelFile`; by
            default the source's own labels are used.
        seed: Seed of the split.
        batch_size: Images per batch that is read.
        workers: Processes that decode; None decides from the cores.
        device: Where batches go.
        max_images: Use at most about this many images of ``data``, evenly spread.
        content_hash: Identify images by their content, not by size and modification time.
        channels: How files are read as they are; None for RGB.

    Attributes:
        classes: Class names, in `class_order`.
        sources: Of the training images and, if they are others, of the test images.
        multilabel: Whether an image may have any number of classes.
        notes: What was left out or decided, one line each.
        skipped: Name -> reason of images that could not be read.

    Raises:
        UsageError: The test images are the training images, or one set is named twice.
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
        content_hash: bool = False,
        channels: Channels | None = None,
    ) -> None:
        self._batch_size, self._workers, self._device = batch_size, workers, device
        self._content_hash = content_hash
        self._unreadable: dict[Split, dict[int, str]] = {"train": {}, "test": {}}
        self._identities: dict[Split, list[str]] = {}
        self._kept: dict[tuple[Split, int], dict[int, Tensor]] = {}
        self.skipped: dict[str, str] = {}
        train_source, test_source, notes = _opened(data, test_data, arrays=channels is not None)
        opened = [train_source] if test_source is None else [train_source, test_source]
        sources = [as_they_are(source, channels) for source in opened]
        _refuse_the_same_twice(sources)
        self.sources = tuple(sources)
        subsets, label_notes = _labeled(sources, label_file)
        self.notes = (*notes, *(note for s in sources for note in s.notes), *label_notes)
        train = subsets[0]
        if max_images:
            stride = max(1, -(-len(train.indices) // max_images))
            train = train._replace(indices=train.indices[::stride])
        self.classes = tuple(sorted(_class_names(train), key=class_order))
        self._label_of = {name: label for label, name in enumerate(self.classes)}
        if len(self.classes) < 2:
            raise DataError(
                f"{train.source.description} has {len(self.classes)} classes with images but "
                "probing needs 2 or more; put the images of each class into a folder of their "
                "own, or name a --label-file"
            )
        self.multilabel = any(_is_multilabel(subset) for subset in subsets)
        if test_source is None:
            train, test = self._held_out(train, seed)
        else:
            test = subsets[1]
            self._check_known(test)
        self._subsets: dict[Split, _Subset] = {"train": train, "test": test}
        for split, subset in self._subsets.items():
            if not subset.indices:
                raise DataError(
                    f"there are no labeled {split} images; each class needs images in its folder"
                )

    def count(self, split: Split) -> int:
        """Labeled images of a split, less those that turned out to be unreadable so far."""
        return len(self._subsets[split].indices) - len(self._unreadable[split])

    def total(self, split: Split) -> int:
        """Labeled images of a split, the unreadable ones included: the range of indices."""
        return len(self._subsets[split].indices)

    def name(self, split: Split, index: int) -> str:
        """Name of an image of a split, for messages."""
        source, members, _ = self._subsets[split]
        return source.name(members[index])

    def rows_of(self, split: Split) -> SourceRows:
        """Which images of which source a split consists of."""
        source, indices, _ = self._subsets[split]
        return SourceRows(source, torch.tensor(indices))

    def identity(self, split: Split) -> list[str] | None:
        """Identifies the images of a split, where they are and their order, for cache keys; None if
        they can be identified only by reading all of them.
        """
        source, indices, _ = self._subsets[split]
        if not source.cacheable:
            return None
        if split not in self._identities:  # one look at every file
            order = _short_hash(torch.tensor(indices).numpy().tobytes())
            fingerprint = source.fingerprint(content=self._content_hash)
            self._identities[split] = [source.location, fingerprint, order]
        return self._identities[split]

    def label_fingerprint(self) -> str:
        """Identifies the labels of both splits."""
        digest = hashlib.sha256()
        for _, indices, labels in self._subsets.values():
            digest.update(repr([labels[i] for i in indices]).encode())
        return digest.hexdigest()[:16]

    def labels(self, split: Split, indices: Tensor | None = None) -> Tensor:
        """Labels of images with exactly one class each.

        Args:
            split: Which one.
            indices: int64 ``[n]``, into the split; all images if not given.

        Returns:
            int64 ``[n]`` on the CPU.
        """
        _, members, labels = self._subsets[split]
        if indices is not None:
            members = [members[i] for i in indices.tolist()]
        return torch.tensor([self._label_of[labels[member][0].name] for member in members])

    def targets(self, split: Split, indices: Tensor) -> Tensor:
        """One-against-the-rest targets.

        Args:
            split: Which one.
            indices: int64 ``[n]``, into the split.

        Returns:
            float32 ``[n, C]`` on the CPU: 1 in the class, -1 not in it, 0 ignored.
        """
        _, members, labels = self._subsets[split]
        targets = torch.full((len(indices), len(self.classes)), -1.0)
        for row, i in enumerate(indices.tolist()):
            for name, uncertain in labels[members[i]]:
                targets[row, self._label_of[name]] = 0.0 if uncertain else 1.0
        return targets

    def batches(
        self,
        split: Split,
        size: int,
        *,
        limit: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read a split in order; images that were read before come from memory, if both splits fit.

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
        kept = self._kept_images(split, size)
        rest = [i for i in chosen if i not in self._unreadable[split]]
        if all(i in kept for i in rest):
            for start in range(0, len(rest), self._batch_size):
                part = rest[start : start + self._batch_size]
                images = torch.stack([kept[i] for i in part]).permute(0, 3, 1, 2)
                yield images.to(self._device), torch.tensor(part)
            return
        index_of = {members[i]: i for i in chosen}
        missing = set(chosen)
        with AllImages(
            source,
            size=size,
            batch_size=self._batch_size,
            workers=self._workers,
            device=self._device,
            indices=[members[i] for i in chosen],
        ) as loader:
            for batch in loader:
                read = [index_of[i] for i in batch.indices.tolist()]
                missing.difference_update(read)
                if self._fits(size):
                    # A copy: a worker's memory is not held.
                    pixels = batch.images.permute(0, 2, 3, 1).cpu().clone()
                    kept.update(zip(read, pixels, strict=True))
                yield batch.images, torch.tensor(read)
            self.mark_unreadable(
                split, {i: loader.skipped.get(source.name(members[i]), "") for i in sorted(missing)}
            )

    def _kept_images(self, split: Split, size: int) -> dict[int, Tensor]:
        """Images uint8 ``[S, S, C]`` of a split that are in memory, by index."""
        return self._kept.setdefault((split, size), {})

    def _fits(self, size: int) -> bool:
        """Whether the images of both splits may be kept at a size."""
        values = (len(s.indices) * s.source.channels * size**2 for s in self._subsets.values())
        return sum(values) <= _KEPT

    def labeled_batches(
        self, split: Split, size: int, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `batches`, with labels int64 ``[B]`` in place of indices."""
        for images, read in self.batches(split, size, indices=indices):
            yield images, self.labels(split, read)

    def mark_unreadable(self, split: Split, reasons: dict[int, str]) -> None:
        """Note images of a split, by index, that cannot be read, and why."""
        source, members, _ = self._subsets[split]
        self._unreadable[split].update(reasons)
        self.skipped.update({source.name(members[i]): reason for i, reason in reasons.items()})

    def readable(self, split: Split) -> Tensor:
        """Indices int64 of the images of a split, less those found unreadable so far; ascending."""
        unreadable = self._unreadable[split]
        return torch.tensor([i for i in range(self.total(split)) if i not in unreadable])

    def unreadable(self, split: Split) -> dict[int, str]:
        """Index in the split -> reason of the images that turned out to be unreadable so far."""
        return self._unreadable[split]

    def _check_known(self, test: _Subset) -> None:
        unknown = sorted(_class_names(test) - set(self.classes))
        if unknown:
            raise DataError(
                f"--test-data has classes that --data lacks: {', '.join(unknown[:3])}; add images "
                "of them"
            )

    def _held_out(self, train: _Subset, seed: int) -> tuple[_Subset, _Subset]:
        """A fifth of each class is held out; an image of several classes counts to its first."""
        names = [train.labels[i] for i in train.indices]
        first = torch.tensor([self._label_of[n[0].name] if n else -1 for n in names])
        groups = torch.tensor(_copies(train))
        copies = len(groups) - len(torch.unique(groups))
        if copies:
            self.notes += (
                f"{copies:,} of {len(groups):,} images are duplicates of another file; duplicates "
                "stay on one side of the split",
            )
        kept, held = stratified_split(first, _TEST_FRACTION, seed, groups)
        return train.at(kept.tolist()), train.at(held.tolist())


def _opened(
    data: Sequence[str] | Source, test_data: Sequence[str] | Source, *, arrays: bool
) -> tuple[Source, Source | None, list[str]]:
    """Open training and, if there are any, test images; and say which splits were recognized."""
    if isinstance(data, Source):
        train: Source = data
        splits: list[dict[str, Part]] = []
    else:
        splits = [splits_of(spec) for spec in data]
        train = open_source(data, split="train", arrays=arrays)
    if isinstance(test_data, Source):
        return train, test_data, []
    if test_data:
        held = [_test_part(splits_of(spec)) or spec for spec in test_data]
        return train, open_source(held, arrays=arrays), []
    if splits and all(splits):
        parts = [_test_part(folders) for folders in splits]
        return (
            train,
            open_source(parts, arrays=arrays),
            [f"test images are those of {' + '.join(parts)}"],
        )
    return train, None, []


def _test_part(parts: dict[str, Part]) -> str:
    """The split that is tested on."""
    part = parts.get("test") or parts.get("val")
    return part.spec if part else ""


def _refuse_the_same_twice(sources: Sequence[Source]) -> None:
    """Refuse test images that are the training images.

    Raises:
        UsageError: Both are at one location.
    """
    if len(sources) == 2 and sources[0].cacheable and sources[0].location == sources[1].location:
        raise UsageError(
            f"--test-data is the same as --data ({sources[0].description}): the accuracy on images "
            "that were trained on says nothing; name other images, or leave --test-data out to "
            "hold out a fifth"
        )


def _labeled(sources: Sequence[Source], label_file: Path | None) -> tuple[list[_Subset], list[str]]:
    """The labeled images of each source, in its order, and what was left out."""
    notes: list[str] = []
    if label_file is not None:
        matched, unmatched = LabelFile(label_file).match(sources)
        if unmatched:
            lines = "line names" if len(unmatched) == 1 else "lines name"
            notes.append(f"{len(unmatched):,} {lines} of {label_file} no image: {_some(unmatched)}")
        if not any(_have_several(labels.values()) for labels in matched):
            matched = [{i: c for i, c in labels.items() if c} for labels in matched]
        reason = f"have no class in {label_file}"
    else:
        matched, reason = [_folder_labels(source) for source in sources], "have no class"
    for source, labels in zip(sources, matched, strict=True):
        rest = [source.name(i) for i in range(len(source)) if i not in labels]
        if rest:
            notes.append(
                f"{len(rest):,} of {source.description} {reason} and are left out: {_some(rest)}"
            )
    return [_Subset(s, sorted(m), m) for s, m in zip(sources, matched, strict=True)], notes


def _folder_labels(source: Source) -> Labels:
    numbers = {index: source.label(index) for index in range(len(source))}
    return {i: (ClassLabel(source.classes[n]),) for i, n in numbers.items() if n is not None}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _copies(subset: _Subset) -> list[int]:
    """Group number of each image: equal for images of equal content. Of files only those of one
    length are read.
    """
    source, members, _ = subset
    lengths = [source.nbytes(i) for i in members]
    counts = Counter(lengths)
    groups: defaultdict[object, int] = defaultdict(lambda: len(groups))
    return [
        groups[_content(source, i) if length is None or counts[length] > 1 else i]
        for i, length in zip(members, lengths, strict=True)
    ]


def _content(source: Source, index: int) -> object:
    try:
        return source.content(index)
    except UnreadableImage:
        return index


def _class_names(subset: _Subset) -> set[str]:
    return {label.name for i in subset.indices for label in subset.labels[i]}


def _is_multilabel(subset: _Subset) -> bool:
    return _have_several(subset.labels[i] for i in subset.indices)


def _have_several(labels: Iterable[tuple[ClassLabel, ...]]) -> bool:
    """Whether images have several classes, or are ignored for one: others may then have none."""
    return any(len(classes) > 1 or any(c.uncertain for c in classes) for classes in labels)


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
