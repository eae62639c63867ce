"""Identity of images: what changes a fingerprint, for every kind of source."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import FakeData

from ssltool.data.sources.base import Source
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.joined import JoinedSource
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_index import write_index
from ssltool.errors import DataError


def bmp(path: Path, value: int) -> None:
    """An image whose size in bytes does not depend on its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (value, 0, 0)).save(path)


def folder(root: Path, value: int) -> Source:
    bmp(root / "a" / "1.bmp", 7)
    bmp(root / "a" / "2.bmp", value)
    return open_source(root)


def file(root: Path, value: int) -> Source:
    bmp(root / "1.bmp", value)
    return FileSource([root / "1.bmp"])


def shard(root: Path, value: int) -> Source:
    bmp(root / "pixels.bmp", value)
    (root / "s").mkdir(exist_ok=True)
    with tarfile.open(root / "s" / "0.tar", "w") as tar:
        header = tarfile.TarInfo("1.bmp")  # the same header for any pixels
        header.size = (root / "pixels.bmp").stat().st_size
        tar.addfile(header, io.BytesIO((root / "pixels.bmp").read_bytes()))
    return open_source(root / "s")


def zipped(root: Path, value: int) -> Source:
    bmp(root / "pixels.bmp", value)
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        archive.write(root / "pixels.bmp", "a/1.bmp")
    return open_source(root / "x.zip")


def manifest(root: Path, value: int) -> Source:
    bmp(root / "1.bmp", value)
    (root / "m.csv").write_text("path\n1.bmp\n")
    return open_source(root / "m.csv")


def rows(root: Path, value: int) -> Source:
    datasets = pytest.importorskip("datasets")
    bmp(root / "1.bmp", value)
    image = {"bytes": (root / "1.bmp").read_bytes(), "path": None}
    datasets.Dataset.from_dict({"image": [image]}).save_to_disk(root / "d")
    return open_source(f"hf:{root}/d")


def rows_of_paths(root: Path, value: int) -> Source:
    pytest.importorskip("datasets")
    pa = pytest.importorskip("pyarrow")
    bmp(root / "1.bmp", value)
    file = root / "m.parquet"
    if not file.exists():
        table = pa.table({"image": [{"bytes": None, "path": "1.bmp"}]})
        pytest.importorskip("pyarrow.parquet").write_table(table, file)
    return open_source(file)


def mnist(root: Path, value: int) -> Source:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, values in (
        ("images-idx3", np.full((3, 28, 28), value)),
        ("labels-idx1", np.arange(3)),
    ):
        for split in ("train", "t10k"):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            path = raw / f"{split}-{name}-ubyte"
            path.write_bytes(header + values.astype(np.uint8).tobytes())
    return open_source(f"torchvision:MNIST@{root}")


def eurosat(root: Path, value: int) -> Source:
    folder = root / "eurosat" / "2750" / "Forest"
    bmp(folder / "pixels.bmp", value)
    os.replace(folder / "pixels.bmp", folder / "1.png")
    return open_source(f"torchvision:EuroSAT@{root}")


def caltech(root: Path, value: int) -> Source:
    folder = root / "caltech101" / "101_ObjectCategories"
    (folder / "BACKGROUND_Google").mkdir(parents=True, exist_ok=True)
    bmp(folder / "ant" / "image_0001.bmp", value)
    os.replace(folder / "ant" / "image_0001.bmp", folder / "ant" / "image_0001.jpg")
    return open_source(f"torchvision:Caltech101@{root}")


def tensors(root: Path, value: int) -> Source:
    del root
    images = torch.zeros(100, 3, 12, 12)
    images[33, 0, 5, 5] = value / 255  # one pixel of one image
    return open_source(TensorDataset(images))


def subset(root: Path, value: int) -> Source:
    del root
    return open_source(
        Subset(TensorDataset(torch.arange(9 * 432).view(9, 3, 12, 12) / 4000), [7, 8, value])
    )


def generic(root: Path, value: int) -> Source:
    del root
    return open_source(FakeData(20, (3, 12, 12), random_offset=value))


def split_root(root: Path, value: int) -> Source:
    bmp(root / "train" / "1.bmp", 7)
    bmp(root / "test" / "1.bmp", value)
    return open_source(root)


def joined(root: Path, value: int) -> Source:
    return JoinedSource([folder(root / "one", 5), folder(root / "two", value)])


KINDS = [
    folder, file, shard, zipped, manifest, rows, rows_of_paths, mnist, eurosat, caltech, tensors,
    subset, generic, split_root, joined,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_changed_in_place_change_both_fingerprints(
    kind: Callable[[Path, int], Source], tmp_path: Path
) -> None:
    first, second, again = (
        (source.fingerprint(), source.fingerprint(content=True))
        for source in (kind(tmp_path, value) for value in (1, 2, 1))
    )
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert first[1] == again[1]
    assert first[0] != first[1]  # a digest of the one kind is never one of the other
    assert all(len(text) == 129 and text[64] == "-" for text in (*first, *second))


@pytest.mark.parametrize("kind", KINDS)
def test_locations_are_absolute_and_content_is_a_digest(
    kind: Callable[[Path, int], Source], tmp_path: Path
) -> None:
    source = kind(tmp_path, 1)
    assert len(source.content(0)) == 32
    assert source.location
    on_disk = kind not in (tensors, subset, generic)
    assert (str(tmp_path.resolve()) in source.location) == on_disk
    assert source.cacheable == (kind is not generic)
    assert not source.relative_path(0).startswith(("/", ".."))


def test_only_the_first_half_changes_when_the_names_stay(tmp_path: Path) -> None:
    before = folder(tmp_path, 1).fingerprint().split("-")
    changed = folder(tmp_path, 2).fingerprint().split("-")
    assert before[0] != changed[0]
    assert before[1] == changed[1]
    (tmp_path / "a" / "2.bmp").rename(tmp_path / "a" / "3.bmp")
    assert open_source(tmp_path).fingerprint().split("-")[1] != before[1]


def test_a_label_that_changes_changes_the_fingerprint(tmp_path: Path) -> None:
    bmp(tmp_path / "cat" / "1.bmp", 1)
    bmp(tmp_path / "dog" / "2.bmp", 1)
    before = open_source(tmp_path).fingerprint(content=True)
    (tmp_path / "dog").rename(tmp_path / "elk")
    assert open_source(tmp_path).fingerprint(content=True) != before


def test_an_indexed_shard_that_changes_is_noticed(tmp_path: Path) -> None:
    first = shard(tmp_path, 1).fingerprint()
    write_index(str(tmp_path / "s"), [str(tmp_path / "s" / "0.tar")])
    assert open_source(tmp_path / "s").fingerprint() == first
    assert shard(tmp_path, 2).fingerprint() != first


def test_images_given_by_path_keep_apart_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bmp(tmp_path / name / "1.bmp", 1)
    source = FileSource([tmp_path / "a" / "1.bmp", tmp_path / "b" / "1.bmp"])
    assert [source.relative_path(i) for i in range(2)] == ["a/1.bmp", "b/1.bmp"]


def test_a_raw_photograph_given_by_path_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (12, 12)).save(tmp_path / "1.dng", "TIFF")
    with pytest.raises(DataError, match="DNG is not readable here; convert it"):
        FileSource([tmp_path / "1.dng"])
