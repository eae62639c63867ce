"""Sets of torchvision's: which are read, from where, with which labels, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.errors import DataError, SslToolError, UnknownNameError, UsageError


def idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny MNIST family: 6 training and 4 test images, image i all i."""
    for name in ("MNIST", "FashionMNIST"):
        for split, count in (("train", 6), ("t10k", 4)):
            images = np.broadcast_to(np.arange(count)[:, None, None], (count, 28, 28))
            idx(tmp_path / name / "raw" / f"{split}-images-idx3-ubyte", images)
            idx(tmp_path / name / "raw" / f"{split}-labels-idx1-ubyte", np.arange(count) % 3)
    return tmp_path


def fails(kind: type[SslToolError], spec: str) -> str:
    with pytest.raises(kind) as caught:
        open_source([spec])
    text = str(caught.value)
    assert text.isprintable()
    return text


def test_images_and_labels(root: Path) -> None:
    source = open_source([f"torchvision:fashionmnist@{root}"])
    assert len(source) == 6
    assert [int(source.read(index, 28)[0, 0, 0]) for index in range(6)] == list(range(6))
    assert source.read(2, 8).shape == (8, 8, 3)
    assert list(source.classes) == sorted(source.classes)
    named = [source.classes[source.label(index) or 0] for index in range(6)]
    assert named == ["T-shirt/top", "Trouser", "Pullover"] * 2
    assert source.short_side(0) == 28
    assert source.name(3) == "image 3 of FashionMNIST"


def test_splits_differ(root: Path) -> None:
    train, test = (
        open_source([f"torchvision:MNIST:{split}@{root}"]) for split in ("train", "test")
    )
    assert (len(train), len(test)) == (6, 4)
    assert train.fingerprint() != test.fingerprint()
    assert "no split 'val'" in fails(UsageError, f"torchvision:MNIST:val@{root}")


def test_a_set_of_files_is_read_by_our_rules(tmp_path: Path) -> None:
    for name in ("Forest", "River"):
        (tmp_path / "eurosat" / "2750" / name).mkdir(parents=True)
        image = Image.new("RGBA", (16, 12), (255, 0, 0, 0))
        image.putpixel((0, 0), (255, 0, 0, 255))  # outside of the center square
        image.save(tmp_path / "eurosat" / "2750" / name / "1.png")
    source = open_source([f"torchvision:EuroSAT@{tmp_path}"])
    assert source.classes == ("Forest", "River")
    assert [source.label(index) for index in range(2)] == [0, 1]
    assert source.short_side(0) == 12
    assert (source.read(0, 8) == 255).all()  # laid on white
    assert source.image(0, 9).size == (12, 9)
    assert source.name(1).endswith("River/1.png")
    assert "no splits" in fails(UsageError, f"torchvision:EuroSAT:train@{tmp_path}")


@pytest.mark.parametrize("name", ["CIFAR10", "cifar100", "ImageNet"])
def test_pickled_sets_are_refused(name: str, tmp_path: Path) -> None:
    text = fails(UsageError, f"torchvision:{name}@{tmp_path}")
    assert "pickle" in text
    assert "--data FOLDER" in text


def test_an_old_torchvisions_pickle_is_not_opened(root: Path) -> None:
    (root / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (root / "MNIST" / "processed" / name).write_bytes(b"whatever")
    assert "remove it" in fails(DataError, f"torchvision:MNIST@{root}")


def test_nothing_is_fetched_unasked(tmp_path: Path) -> None:
    text = fails(DataError, f"torchvision:FashionMNIST:test@{tmp_path}")
    assert f"torchvision:FashionMNIST:test@{tmp_path}?download" in text
    assert not list(tmp_path.rglob("*.gz"))


def test_download_is_passed_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import FashionMNIST

    asked = []
    monkeypatch.setattr(FashionMNIST, "download", lambda self: asked.append(self.root))
    open_source([f"torchvision:FashionMNIST@{root}?download"])
    assert list(map(str, asked)) == [str(root)]


def test_bad_specs(tmp_path: Path) -> None:
    assert "torchvision:FashionMNIST@data" in fails(UsageError, "torchvision:FashionMNIST")
    assert "did you mean FashionMNIST" in fails(
        UnknownNameError, f"torchvision:FashonMNIST@{tmp_path}"
    )
    assert "no folder at" in fails(UsageError, f"torchvision:MNIST@{tmp_path}/gone")
