"""Folders that are divided into training, validation and test images."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from ssltool.data.check import check
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.splits import split_folders
from ssltool.errors import UsageError


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12)).save(root / name)
    return root


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/a/1.png", "val/a/1.png", "test/a/1.png"], ["train", "val", "test"]),
        (["Training/a/1.png", "TESTING/a/1.png"], ["Training", "TESTING"]),
        (["train/1.png", "valid/1.png"], ["train", "valid"]),
        (["train/x/y/1.png", "validation/x/1.png"], ["train", "validation"]),
    ],
)
def test_splits_are_recognized(tmp_path: Path, names: list[str], splits: list[str]) -> None:
    put(tmp_path, *names)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").touch()
    put(tmp_path, ".hidden/1.png")
    found = split_folders(tmp_path)
    assert found is not None
    assert [Path(path).name for path in found.values()] == splits
    assert next(iter(found)) == "train"


@pytest.mark.parametrize(
    "names",
    [
        ["train/1.png", "bus/1.png", "car/1.png"],  # vehicles
        ["train/1.png", "test/1.png", "car/1.png"],
        ["train/1.png", "validation.png"],
        ["test/1.png", "val/1.png"],
        ["a/train/1.png", "a/test/1.png"],
        ["1.png"],
    ],
)
def test_classes_are_not_splits(tmp_path: Path, names: list[str]) -> None:
    put(tmp_path, *names)
    assert split_folders(tmp_path) is None


def test_an_empty_split_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "labels.csv").touch()
    assert split_folders(tmp_path) is None
    assert split_folders(tmp_path / "gone") is None


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "val/1.png", "validation/2.png")
    with pytest.raises(UsageError, match="both val and validation; name the folders"):
        split_folders(tmp_path)


def test_classes_are_the_second_level(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/dog/1.png", "cover.png")
    source = open_source(tmp_path)
    assert (len(source), source.classes) == (3, ("cat", "dog"))
    assert [source.label(i) for i in range(3)] == [0, 1, 1]
    assert [source.split(i) for i in range(3)] == ["train", "train", "test"]
    assert source.relative_path(2) == "test/dog/1.png"
    assert source.notes[0].startswith(f"{tmp_path} is divided into train, test: all are read")
    assert source.notes[1].startswith("1 image left out: directly in")
    train = open_source([tmp_path], split="train")
    assert [train.relative_path(i) for i in range(len(train))] == ["cat/1.png", "dog/2.png"]
    assert "only train is read" in train.notes[0]
    assert len(open_source(tmp_path, split="test")) == 1
    with pytest.raises(UsageError, match="no val images; it is divided into train, test"):
        open_source(tmp_path, split="val")
    assert len(open_source(tmp_path / "train", split="test")) == 2  # not divided itself


def test_an_image_that_moves_to_another_split_changes_the_fingerprint(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    before = open_source(tmp_path).fingerprint()
    (tmp_path / "train" / "2.png").rename(tmp_path / "test" / "2.png")
    assert open_source(tmp_path).fingerprint() != before


def test_splits_of_shards(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    for split in ("train", "val"):
        (tmp_path / "s" / split).mkdir(parents=True)
        with tarfile.open(tmp_path / "s" / split / "0.tar", "w") as tar:
            tar.add(tmp_path / "1.png", "1.png")
    source = open_source(tmp_path / "s")
    assert [source.relative_path(i) for i in range(2)] == ["train/1.png", "val/1.png"]


def test_check_counts_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/dog/1.png")
    (tmp_path / "test" / "cat").mkdir()
    (tmp_path / "test" / "cat" / "1.jxl").touch()
    result = check(str(tmp_path), Console(quiet=True))
    assert result.classes == {"cat": 1, "dog": 2}
    assert {split: each.classes for split, each in result.splits.items()} == {
        "train": {"cat": 1, "dog": 1},
        "test": {"cat": 0, "dog": 1},
    }
    assert (result.splits["test"].images, result.splits["test"].readable) == (2, 1)
    assert "JXL is not readable here" in next(iter(result.unreadable.values()))
