"""`DatasetSource`: any map-style torch dataset as a source of images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from ssltool.data.color import to_rgb
from ssltool.data.opening import check_size
from ssltool.data.resizing import square
from ssltool.data.sources.base import PixelSource
from ssltool.data.sources.class_names import in_class_order
from ssltool.data.sources.fingerprints import fingerprint_of
from ssltool.errors import DataError, UnreadableImage, UsageError

_ITEM = "expected an image (PIL, uint8 or float 0..1 of [3, H, W] or [H, W, 3]) or (image, label)"
_CHANNELS = (1, 3)
_FINGERPRINT_IMAGES, _FINGERPRINT_SIZE = 16, 32


class DatasetSource(PixelSource):
    """The images, and labels if it has any, of a map-style torch dataset.

    An item is an image or a pair (image, label). An image is a PIL image, or a tensor or array of
    ``[3, H, W]``, ``[H, W, 3]``, ``[1, H, W]`` or ``[H, W]``, uint8 or float in 0..1; PIL images
    follow the rules of `ssltool.data.decode` on color profiles, opacity and ranges. A label is an
    int, negative or None if unknown. The dataset must return the same item for an index every time:
    leave out random transforms, and normalization. With worker processes that are not forked, it
    must be picklable.

    Labels are taken from ``dataset.targets`` or a `TensorDataset` where they are stored; otherwise
    all items are read once, when labels are first needed. Class names are those of
    ``dataset.classes``, otherwise the numbers.

    Args:
        dataset: The dataset.

    Raises:
        UsageError: It is not map-style, or its first item is neither an image nor (image, label).
        DataError: It is empty.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset
        self._name = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise UsageError(f"{self._name} has no length; give a map-style dataset")
        self._count: int = len(dataset)
        if self._count == 0:
            raise DataError(f"no images in {self._name}: it is empty")
        self.description = f"{self._count:,} images in {self._name}"
        kind = type(_innermost(dataset))
        self.location = f"{kind.__module__}.{kind.__qualname__}"
        self.cacheable = kind is TensorDataset
        self._check_first_item()

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # lazy, as labels may be slow
        return self._classes_and_labels[0]

    def __len__(self) -> int:
        return self._count

    def short_side(self, index: int) -> int:
        return int(min(self.pixels(index).shape[:2]))

    def name(self, index: int) -> str:
        return f"item {index} of {self._name}"

    def label(self, index: int) -> int | None:
        label = int(self._classes_and_labels[1][index])
        return None if label < 0 else label

    def fingerprint(self, *, content: bool = False) -> str:
        """Of a `TensorDataset` all tensors, of others the pixels and labels of some items."""
        if content:
            return super().fingerprint(content=True)
        stored = _stored_labels(self._dataset)
        labels = b"" if stored is None else stored.tobytes()
        names = [f"{self._count} {self._name} {self.location}\0".encode(), labels]
        return fingerprint_of(names, self._states())

    def _states(self) -> Iterator[bytes]:
        """What identifies the items, without reading all of a dataset that is not in memory."""
        tensors, indices = _in_memory(self._dataset)
        for array in (*tensors, indices):
            yield f"{array.dtype} {array.shape}".encode()
            yield hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()
        if tensors:
            return
        count = min(_FINGERPRINT_IMAGES, self._count)
        for index in np.linspace(0, self._count - 1, count).round().astype(int).tolist():
            try:
                image, label = self._item(index)
                pixels = square(to_pixels(image), _FINGERPRINT_SIZE)
                yield hashlib.sha256(pixels.tobytes()).digest() + f"{label}\n".encode()
            except UnreadableImage:
                yield b"unreadable\n"

    @cached_property
    def _classes_and_labels(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Class names, and the class number of each image, -1 where it is unknown."""
        names, labels = _root(self._dataset, "classes"), self._own_labels()
        if not isinstance(names, Sequence) or isinstance(names, str):
            names = range(int(labels.max()) + 1)
        return in_class_order([str(name) for name in names], labels)

    def _own_labels(self) -> NDArray[np.int64]:
        """Class number of each image as the dataset numbers them, -1 where it is unknown."""
        stored = _stored_labels(self._dataset)
        if stored is not None and len(stored) == self._count:
            return stored
        return np.array([self._label(index) for index in range(self._count)], np.int64)

    def _label(self, index: int) -> int:
        try:
            label = self._item(index)[1]
        except UnreadableImage:
            return -1
        return -1 if label is None else label

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return to_pixels(self._item(index)[0])

    def _item(self, index: int) -> tuple[Any, int | None]:
        """Image and label of an item.

        Raises:
            UnreadableImage: The dataset raises, or its item is not (image, label).
        """
        try:
            item = self._dataset[index]
        except Exception as error:  # whatever the dataset's own code raises
            reason = " ".join(str(error).split())
            raise UnreadableImage(f"{type(error).__name__}: {reason}"[:120]) from error
        if not isinstance(item, tuple | list):
            return item, None
        if len(item) == 1:
            return item[0], None
        if len(item) != 2:
            raise UnreadableImage(f"an item of {len(item)} parts; {_ITEM}")
        return item[0], _to_label(item[1])

    def _check_first_item(self) -> None:
        try:
            self.pixels(0)
        except UnreadableImage as error:
            if error.__cause__ is None:  # not the dataset's own error, such as one damaged file
                raise UsageError(f"{self.name(0)} is {error}") from error


def to_pixels(image: Any) -> NDArray[np.uint8]:
    """Convert an image of a dataset to RGB pixels.

    Args:
        image: A PIL image; or a tensor or array ``[3, H, W]``, ``[H, W, 3]``, ``[1, H, W]``,
            ``[H, W, 1]`` or ``[H, W]``, uint8 or float in 0..1. Of a shape that can be read both
            ways a tensor has its channels first, an array last.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        UnreadableImage: It is of another kind, shape or range.
    """
    if isinstance(image, Image.Image):
        pixels = np.asarray(to_rgb(image))
    elif isinstance(image, Tensor):
        pixels = _to_bytes(_channels_last(image.detach().cpu().numpy(), first=True))
    elif isinstance(image, np.ndarray):
        pixels = _to_bytes(_channels_last(image, first=False))
    else:
        raise UnreadableImage(f"a {type(image).__name__}; {_ITEM}")
    check_size(pixels.shape[1], pixels.shape[0])
    return pixels


def _channels_last(values: NDArray[Any], *, first: bool) -> NDArray[Any]:
    """Values of an image as ``[H, W, 3]``; ``first``: prefer to read the channels as first."""
    if values.ndim == 2:
        values = values[..., None]
    elif (
        values.ndim == 3 and values.shape[0] in (1, 3) and (first or values.shape[2] not in (1, 3))
    ):
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in _CHANNELS:
        raise UnreadableImage(f"an array of shape {list(values.shape)}; {_ITEM}")
    return np.broadcast_to(values, (*values.shape[:2], 3))


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 as it is; floats in 0..1 times 255, rounded."""
    if values.dtype == np.uint8:
        return np.array(values)
    if values.dtype.kind != "f":
        raise UnreadableImage(f"an array of {values.dtype}; {_ITEM}")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also if NaN
        raise UnreadableImage(
            f"a float image with values from {low:.3g} to {high:.3g}; expected 0..1, without "
            "normalization"
        )
    return (values.astype(np.float64) * 255).round().astype(np.uint8)


def _to_label(label: Any) -> int | None:
    if label is None:
        return None
    is_integer = isinstance(label, int | np.integer)
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
        is_integer = isinstance(label, int)
    if not is_integer:
        raise UnreadableImage(
            f"labeled by a {type(label).__name__}; expected an int, or the image alone"
        )
    return int(label) if label >= 0 else None


def _stored_labels(dataset: Any) -> NDArray[np.int64] | None:
    """Labels that can be had without reading the images; None if there are none."""
    if isinstance(dataset, Subset):
        labels = _stored_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices, np.int64)]
    stored = getattr(dataset, "targets", None)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        stored = dataset.tensors[1]
    if stored is None:
        return None
    try:
        labels = np.asarray(stored)
    except ValueError:  # of different lengths: not class numbers
        return None
    return labels.astype(np.int64) if labels.ndim == 1 and labels.dtype.kind in "iu" else None


def _root(dataset: Any, attribute: str) -> Any:
    """An attribute of a dataset, or of the one that it is a subset of; None without it."""
    return getattr(_innermost(dataset), attribute, None)


def _innermost(dataset: Any) -> Any:
    """A dataset, or the one that it is a subset of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _in_memory(dataset: Any) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Tensors of a `TensorDataset` or its subset; none of others. Indices of the subset in it."""
    indices: Any = None
    while isinstance(dataset, Subset):
        own = np.asarray(dataset.indices, np.int64)
        indices = own if indices is None else own[indices]
        dataset = dataset.dataset
    tensors = dataset.tensors if type(dataset) is TensorDataset else ()
    return (
        [tensor.detach().cpu().numpy() for tensor in tensors],
        np.empty(0, np.int64) if indices is None else indices,
    )
