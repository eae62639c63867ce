"""`TorchvisionSource`: torchvision's datasets, ``torchvision:NAME[:SPLIT]@ROOT[?download]``.

Only those published without Python pickles, which can run code when they are read.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import decode, fitted, read_size, read_square, square
from ssltool.data.sources.base import Source, fingerprint_of
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
        self.classes = tuple(map(str, self._attribute("classes", "categories") or ()))
        self._labels = self._read_labels()
        if not self.classes and (self._labels >= 0).any():
            self.classes = tuple(map(str, range(int(self._labels.max()) + 1)))
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

    def image(self, index: int, short_side: int) -> Image.Image:
        file = self._file(index)
        return fitted(decode(file, short_side) if file else self._image(index), short_side)

    def short_side(self, index: int) -> int:
        file = self._file(index)
        return min(read_size(file) if file else self._image(index).size)

    def name(self, index: int) -> str:
        return self._file(index) or f"image {index} of {self._name}"

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def fingerprint(self) -> str:
        return fingerprint_of(len(self), self._name.encode(), self._labels.astype("<i8").tobytes())

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
