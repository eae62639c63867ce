"""`TorchvisionSource`: torchvision's datasets, ``torchvision:NAME[:SPLIT]@ROOT[?download]``.

Only those published without Python pickles, which can run code when they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import decode, read_square, read_stretched
from ssltool.data.opening import dimensions
from ssltool.data.resizing import fitted, square, stretched
from ssltool.data.sources.base import Source
from ssltool.data.sources.class_names import in_class_order, nfc
from ssltool.data.sources.fingerprints import (
    encode,
    file_content,
    file_size,
    file_state,
    fingerprint_of,
)
from ssltool.data.sources.locations import printable
from ssltool.errors import DataError, UnknownNameError, UnreadableImage, UsageError

SETS = {
    name.lower(): name
    for name in (
        *("Caltech101", "Caltech256", "DTD", "EuroSAT", "FGVCAircraft", "FashionMNIST"),
        *("Flowers102", "Food101", "GTSRB", "Imagenette", "KMNIST", "MNIST", "OxfordIIITPet"),
        *("STL10", "SVHN", "USPS"),
    )
}
"""torchvision's names by their lower case."""

_PICKLED = {"cifar10", "cifar100", "imagenet", "lsun", "phototour"}
_SPEC = re.compile(
    r"torchvision:(?P<name>\w+)(?::(?P<split>\w+))?@(?P<root>.+?)(?P<download>\?download)?"
)
HOW = (
    "type torchvision:NAME[:SPLIT]@ROOT, as in torchvision:FashionMNIST@data, and ?download after "
    "it to fetch the set"
)


class TorchvisionSource(Source):
    """The images and classes of one split.

    Args:
        spec: As typed, see the top of this file. Without a split, torchvision's default: the
            training images.

    Raises:
        UsageError: The spec is malformed, or there is no such split or root.
        UnknownNameError: The set is not one of `SETS`.
        DataError: The files are not there, are damaged or could not be fetched.
    """

    def __init__(self, spec: str) -> None:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise UsageError(f"{spec!r} does not say which set and where; {HOW}")
        name = _canonical_name(match["name"])
        root = os.path.expanduser(match["root"])
        download = bool(match["download"])
        if not download and not os.path.isdir(root):
            raise UsageError(f"no folder at {root}; {HOW}")
        self._dataset = _open(name, match["split"], root, download)
        self._root = os.path.realpath(root)
        self.location = f"torchvision:{name}@{self._root}"
        names = tuple(map(str, self._attribute("classes", "categories") or ()))
        labels = self._read_labels()
        if not names and (labels >= 0).any():
            names = tuple(map(str, range(int(labels.max()) + 1)))
        self.classes, self._labels = in_class_order(names, labels)
        split = f" ({match['split']})" if match["split"] else ""
        self._name = f"{name}{split}"
        self.description = f"{len(self):,} images in torchvision's {name}{split} at {root}"

    def _read_labels(self) -> NDArray[np.int64]:
        """Class number of each image, -1 where it is unknown."""
        labels = self._attribute("targets", "_labels", "labels", "y")
        if labels is None:
            samples = self._attribute("samples", "_samples") or ()
            labels = [label for _, label in samples] or [-1] * len(self)
        return np.asarray(labels, np.int64)

    def _attribute(self, *names: str) -> Any:
        """The first attribute of the dataset that exists; None without any.

        Some datasets of torchvision's have no public attribute for labels and files; their items
        would have to be decoded instead.
        """
        values = (getattr(self._dataset, name, None) for name in names)
        return next((value for value in values if value is not None), None)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        file = self._file(index)
        return read_square(file, size) if file else square(np.asarray(self._image(index)), size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        file = self._file(index)
        return (
            read_stretched(file, size) if file else stretched(np.asarray(self._image(index)), size)
        )

    def image(self, index: int, short_side: int) -> Image.Image:
        file = self._file(index)
        return fitted(decode(file, short_side) if file else self._image(index), short_side)

    def short_side(self, index: int) -> int:
        file = self._file(index)
        return min(dimensions(file) if file else self._image(index).size)

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def relative_path(self, index: int) -> str:
        file = self._file(index)
        if file is None:
            return super().relative_path(index)
        return nfc(os.path.relpath(os.path.realpath(file), self._root).replace(os.sep, "/"))

    def path(self, index: int) -> str:
        return self._file(index) or f"image {index} of {self._name}"

    def nbytes(self, index: int) -> int | None:
        file = self._file(index)
        return file_size(file) if file else None

    def content(self, index: int) -> bytes:
        file = self._file(index)
        return file_content(file) if file else super().content(index)

    def fingerprint(self, *, content: bool = False) -> str:
        if content or self._file(0):
            return super().fingerprint(content=content)
        labels = self._labels.astype("<i8").tobytes()
        names = [f"{len(self)} {self._name} {self.classes}".encode(), labels]
        return fingerprint_of(names, self._set_states())

    def _set_states(self) -> Iterator[bytes]:
        """What identifies all images of a set that is not a list of image files."""
        pixels = self._attribute("data")
        if pixels is not None:  # all in memory
            pixels = np.ascontiguousarray(pixels)
            yield f"{pixels.dtype} {pixels.shape}".encode()
            yield hashlib.sha256(pixels.data).digest()
            return
        for folder, folders, files in os.walk(self._dataset.root):
            folders.sort()
            for file in sorted(files):
                path = os.path.join(folder, file)
                relative = os.path.relpath(path, self._dataset.root)
                yield encode(relative) + b"\0" + file_state(path)

    def _state(self, index: int) -> bytes:
        file = self._file(index)
        assert file is not None
        return file_state(file)

    def _file(self, index: int) -> str | None:
        """Path of an image, if the dataset consists of image files; `decode` reads it then."""
        files = self._attribute("_image_files", "_images")
        if files is not None:
            return str(files[index])
        samples = self._attribute("samples", "_samples")
        return str(samples[index][0]) if samples else None

    def _image(self, index: int) -> Image.Image:
        try:
            image = self._dataset[index][0]
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error
        assert isinstance(image, Image.Image)
        return image.convert("RGB")


def _canonical_name(name: str) -> str:
    """The name of a dataset as torchvision spells it, if it is supported."""
    if name.lower() in _PICKLED:
        raise UsageError(
            f"torchvision's {name} is published as Python pickles, which ssltool never reads; save "
            "its images to a folder, one subfolder per class, and type --data FOLDER"
        )
    if name.lower() not in SETS:
        raise UnknownNameError(
            "torchvision set", name, SETS.values(), "sets published without pickles"
        )
    return SETS[name.lower()]


def _open(name: str, split: str | None, root: str, download: bool) -> Any:
    """Construct torchvision's dataset."""
    cls = getattr(importlib.import_module("torchvision.datasets"), name)
    arguments = {"download": download, **_split_argument(name, cls, split)}
    _refuse_old_pickles(os.path.join(root, name, "processed"))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
            return cls(root, **arguments)
    except ImportError as error:
        raise UsageError(
            f"torchvision:{name} needs scipy; type pip install 'ssltool[datasets]'"
        ) from error
    except ValueError as error:  # no such split
        raise UsageError(f"torchvision:{name}: {' '.join(str(error).split())}") from error
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        spec = f"{name}:{split}" if split else name
        advice = "" if download else f"; type torchvision:{spec}@{root}?download to fetch it"
        raise DataError(
            f"torchvision:{name} cannot be read at {root} ({reason}){advice}"
        ) from error


def _split_argument(name: str, cls: type[Any], split: str | None) -> dict[str, Any]:
    """The argument of a dataset's constructor that selects a split."""
    if split is None:
        return {}
    parameters = inspect.signature(cls.__init__).parameters
    if "train" in parameters:
        if split not in {"train", "test"}:
            raise UsageError(f"{name} has no split {split!r}; its splits are train and test")
        return {"train": split == "train"}
    if "split" in parameters:
        return {"split": split}
    raise UsageError(f"{name} has no splits; type torchvision:{name}@ROOT")


def _refuse_old_pickles(folder: str) -> None:
    if os.path.isdir(folder) and any(entry.endswith(".pt") for entry in os.listdir(folder)):
        raise DataError(
            f"{folder} holds pickles of an old torchvision, which would be read; remove it: raw/ "
            "is enough"
        )
