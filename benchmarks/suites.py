"""Public data sets of `quality.py --suite`, with recipes and what was published of them.

They are downloaded by torchvision. CIFAR-10 is read from its binary edition: torchvision's class
reads the edition for Python, which is pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR10_SIDE = 32


class Images(NamedTuple):
    """What to type after --data.

    Attributes:
        pretrain: Images without labels.
        train: Labeled ones that probes are fitted to.
        test: Labeled ones that are only measured.
    """

    pretrain: str
    train: str
    test: str


class Published(NamedTuple):
    """A published accuracy in percent.

    Attributes:
        method: Whose.
        measure: ``linear`` or ``knn200``, by `ssltool probe`'s names.
        accuracy: As printed.
        source: Where, and how it was measured.
    """

    method: str
    measure: str
    accuracy: str
    source: str


class Suite(NamedTuple):
    """A public data set.

    Attributes:
        fetch: Downloads it to a folder, unless it is there.
        words: What is typed after ``pretrain METHOD``, by method; other methods do not apply.
        published: Accuracies to compare with.
    """

    fetch: Callable[[Path], Images]
    words: dict[str, str]
    published: tuple[Published, ...] = ()


def _cifar10(root: Path) -> Images:
    from torchvision.datasets.utils import download_and_extract_archive

    binaries, folder = root / "cifar-10-batches-bin", root / "cifar10"
    if not folder.exists():
        if not binaries.exists():
            download_and_extract_archive(_CIFAR10, str(root), md5=_CIFAR10_MD5)
        unfinished = root / "cifar10.tmp"
        classes = (binaries / "batches.meta.txt").read_text().split()
        for file in sorted(binaries.glob("*_batch*.bin")):
            split = "test" if file.name.startswith("test") else "train"
            _write_cifar10(file, unfinished / split, classes)
        unfinished.rename(folder)
    return Images(str(folder / "train"), str(folder / "train"), str(folder / "test"))


def _write_cifar10(file: Path, folder: Path, classes: list[str]) -> None:
    """Write the images of a binary file, a byte of label and three planes each, as PNG files."""
    import numpy as np
    from PIL import Image

    rows = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, 1 + 3 * _CIFAR10_SIDE**2)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        pixels = row[1:].reshape(3, _CIFAR10_SIDE, _CIFAR10_SIDE).transpose(1, 2, 0)
        to = folder / classes[row[0]] / f"{file.stem}_{number:05d}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(to)


def _torchvision(name: str, pretrain: str, train: str, test: str) -> Callable[[Path], Images]:
    def fetch(root: Path) -> Images:
        splits = (f"torchvision:{name}:{split}@{root}" for split in (pretrain, train, test))
        return Images(*(f"{split}?download" for split in splits))

    return fetch


_RESNET18 = "--backbone resnet18 --epochs 200"
_AT_96 = f"{_RESNET18} --image-size 96"
_AT_160 = f"{_RESNET18} --image-size 160 --load-size 192"

SUITES = {
    "cifar10": Suite(
        _cifar10,
        {
            # Wu et al. 2018, section 4.1, and the released code's cifar.py.
            "npid": f"{_RESNET18} --loss softmax --temperature 0.1 --bank-init random "
            "--optimizer sgd --lr 0.03 --weight-decay 5e-4 --schedule step --warmup 0 "
            "--batch-size 128 --flip 0",
            "cpc": f"{_RESNET18} --patch 8 --stride 4",
            "context-encoder": _RESNET18,
            "colorization": _RESNET18,
            "jigsaw": _RESNET18,
            "context-prediction": _RESNET18,
        },
        (
            Published("npid", "knn200", "80.8", "Wu et al. 2018, table 1, softmax, 128-D"),
            Published("npid", "knn200", "80.4", "the same, NCE with 4,096 negatives"),
            Published("cpc", "linear", "84.5", "PyTorch Lightning Bolts, another network"),
        ),
    ),
    "stl10": Suite(
        _torchvision("STL10", "unlabeled", "train", "test"),
        {
            "npid": f"{_AT_96} --batch-size 256",
            "cpc": "--backbone resnet50 --image-size 64 --patch 16 --stride 8 "
            "--last-stage layer3 --lr 2e-4 --batch-size 64 --epochs 100",
            "context-encoder": _AT_96,
            "colorization": _AT_96,
            "jigsaw": _AT_96,
            "context-prediction": _AT_96,
        },
        (
            Published("cpc", "linear", "80.5", "Löwe et al. 2019, table 1, ResNet-50 to stage 3"),
            Published("cpc", "linear", "78.4", "PyTorch Lightning Bolts"),
        ),
    ),
    "imagenette": Suite(
        _torchvision("Imagenette", "train", "train", "val"),
        {
            "npid": _AT_160,
            "cpc": f"{_RESNET18} --image-size 160",
            "context-encoder": f"{_RESNET18} --image-size 128 --load-size 160",
            "colorization": _AT_160,
            "jigsaw": f"{_RESNET18} --image-size 160",
            "context-prediction": f"{_RESNET18} --image-size 160",
        },
    ),
}
