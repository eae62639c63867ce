"""A data set of torchvision's, read from the files it is published as:
``torchvision:NAME[:SPLIT]@ROOT[?download]``.

Only sets that are published without Python pickles, which can run code when they are read.
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
        *(
            "Caltech101",
            "Caltech256",
            "DTD",
            "EuroSAT",
            "FGVCAircraft",
            "FashionMNIST",
            "Flowers102",
            "Food101",
        ),
        *("GTSRB", "Imagenette", "KMNIST", "MNIST", "OxfordIIITPet", "STL10", "SVHN", "USPS"),
    )
}
"""Names as torchvision has them, by their lower case."""

_PICKLED = {"cifar10", "cifar100", "imagenet", "lsun", "phototour"}
_SPEC = re.compile(
    r"torchvision:(?P<name>\w+)(?::(?P<split>\w+))?@(?P<root>.+?)(?P<download>\?download)?"
)
HOW = "type torchvision:NAME[:SPLIT]@ROOT, as in torchvision:FashionMNIST@data, and ?download after it to fetch the set"


class TorchvisionSource(Source):
    """The images and classes of one split.

    Args:
        spec: As typed, see on top of this file. Without a split, the one torchvision takes by
            default: the training images.

    Raises:
        UsageError: The spec is malformed, or names a set, split or root that there is not.
        UnknownNameError: The set is not one of `SETS`.
        DataError: The files are not there, are damaged or could not be fetched.
    """

    def __init__(self, spec: str) -> None:
        found = _SPEC.fullmatch(spec)
        if found is None:
            raise UsageError(f"{spec!r} does not say which set and where; {HOW}")
        name = _known(found["name"])
        root = os.path.expanduser(found["root"])
        download = bool(found["download"])
        if not download and not os.path.isdir(root):
            raise UsageError(f"no folder at {root}; {HOW}")
        self._set = _opened(name, found["split"], root, download)
        self.classes = tuple(
            map(str, getattr(self._set, "classes", ()) or getattr(self._set, "categories", ()))
        )
        self._labels = self._read_labels()
        if not self.classes and (self._labels >= 0).any():
            self.classes = tuple(map(str, range(int(self._labels.max()) + 1)))
        split = f" ({found['split']})" if found["split"] else ""
        self._name = f"{name}{split}"
        self.description = f"{len(self):,} images in torchvision's {name}{split} at {root}"

    def _read_labels(self) -> NDArray[np.int64]:
        for attribute in ("targets", "_labels", "labels", "y"):
            found = getattr(self._set, attribute, None)
            if found is not None:
                return np.asarray(found, np.int64)
        samples = getattr(self._set, "samples", None) or getattr(self._set, "_samples", None) or ()
        return np.array([label for _, label in samples] or [-1] * len(self), np.int64)

    def __len__(self) -> int:
        return len(self._set)

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
        """Path of an image in a set of files: read by our own rules, at a reduced scale where that
        will do.
        """
        for attribute in ("_image_files", "_images"):
            files = getattr(self._set, attribute, None)
            if files is not None:
                return str(files[index])
        samples = getattr(self._set, "samples", None) or getattr(self._set, "_samples", None)
        return str(samples[index][0]) if samples else None

    def _image(self, index: int) -> Image.Image:
        try:
            image = self._set[index][0]
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error
        assert isinstance(image, Image.Image)
        return image.convert("RGB")


def _known(name: str) -> str:
    """The name of a set as torchvision writes it, if that may be read."""
    if name.lower() in _PICKLED:
        raise UsageError(
            f"torchvision's {name} is published as Python pickles, which ssltool never reads; "
            "save its images to a "
            "folder, one subfolder per class, and type --data FOLDER"
        )
    if name.lower() not in SETS:
        raise UnknownNameError(
            "torchvision set", name, SETS.values(), "sets published without pickles"
        )
    return SETS[name.lower()]


def _opened(name: str, split: str | None, root: str, download: bool) -> Any:
    """Build torchvision's own object."""
    cls = getattr(importlib.import_module("torchvision.datasets"), name)
    parameters = inspect.signature(cls.__init__).parameters
    given: dict[str, Any] = {"download": download}
    if split is not None and "train" in parameters:
        if split not in {"train", "test"}:
            raise UsageError(f"{name} has no split {split!r}; its splits are train and test")
        given["train"] = split == "train"
    elif split is not None and "split" in parameters:
        given["split"] = split
    elif split is not None:
        raise UsageError(f"{name} has no splits; type torchvision:{name}@ROOT")
    converted = os.path.join(root, name, "processed")
    if os.path.isdir(converted) and any(entry.endswith(".pt") for entry in os.listdir(converted)):
        raise DataError(
            f"{converted} holds the pickles of an old torchvision, which would be read; remove "
            "it: raw/ is enough"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
            return cls(root, **given)
    except ImportError as error:
        raise UsageError(
            f"torchvision:{name} needs scipy; type pip install 'ssltool[datasets]'"
        ) from error
    except ValueError as error:  # a split that there is not
        raise UsageError(f"torchvision:{name}: {' '.join(str(error).split())}") from error
    except (RuntimeError, OSError) as error:
        said = " ".join(str(error).split())
        which = f"{name}:{split}" if split else name
        advice = "" if download else f"; type torchvision:{which}@{root}?download to fetch it"
        raise DataError(
            f"torchvision:{name} cannot be read at {root} ({said[:120]}){advice}"
        ) from error
