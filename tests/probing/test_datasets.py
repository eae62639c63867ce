from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ssltool.data.sources.registry import open_source
from ssltool.errors import DataError, UsageError
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.label_file import LabelFile


def test_a_fifth_is_held_out_without_test_images() -> None:
    images = LabeledImages(("demo:100",), workers=0)
    assert (images.count("train"), images.count("test")) == (80, 20)
    assert torch.bincount(images.labels("test")).tolist() == [2] * 10


def test_a_source_is_as_good_as_its_path() -> None:
    by_path = LabeledImages(("demo:40",), ("demo-test:20",), workers=0)
    by_source = LabeledImages(open_source(("demo:40",)), open_source(("demo-test:20",)), workers=0)
    assert by_source.identity("train") == by_path.identity("train")
    assert by_source.identity("test") == by_path.identity("test")
    assert torch.equal(by_source.labels("test"), by_path.labels("test"))


def test_batches_tell_which_images_they_hold() -> None:
    images = LabeledImages(("demo:20",), ("demo-test:10",), batch_size=3, workers=0)
    batches = list(images.batches("train", 16, indices=[7, 2, 11, 5]))
    assert [len(batch) for batch, _ in batches] == [3, 1]
    assert torch.cat([indices for _, indices in batches]).tolist() == [7, 2, 11, 5]
    whole = torch.cat([batch for batch, _ in images.batches("train", 16)])
    assert torch.equal(torch.cat([batch for batch, _ in batches]), whole[[7, 2, 11, 5]])
    labels = torch.cat([labels for _, labels in images.labeled_batches("train", 16)])
    assert torch.equal(labels, images.labels("train"))
    assert sum(len(batch) for batch, _ in images.batches("train", 16, limit=5)) == 5


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"")
    images = LabeledImages((str(tmp_path),), batch_size=4, workers=0)
    plain = LabeledImages((str(tmp_path),), batch_size=4, workers=0)
    monkeypatch.setattr("ssltool.probing.datasets._KEPT", 0)
    expected = [list(plain.batches(split, 16)) for split in ("train", "test")]
    monkeypatch.undo()
    first = [list(images.batches(split, 16)) for split in ("train", "test")]
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    again = [list(images.batches(split, 16)) for split in ("train", "test")]
    for one, other, third in zip(expected, first, again, strict=True):
        for column in range(2):
            values = [torch.cat([batch[column] for batch in side]) for side in (one, other, third)]
            assert torch.equal(values[0], values[1])
            assert torch.equal(values[0], values[2])
    assert [batch.stride() for batch, _ in again[0]] == [batch.stride() for batch, _ in first[0]]
    assert sum(images.count(split) for split in ("train", "test")) == 12


def test_labels_of_several_classes_come_from_a_file(multilabel: tuple[Path, Path]) -> None:
    folder, label_file = multilabel
    images = LabeledImages((str(folder),), label_file=label_file)
    assert images.multilabel
    assert images.classes == ("blue", "red")
    splits = ("train", "test")
    targets = [images.targets(s, torch.arange(images.count(s))) for s in splits]
    blue = torch.cat(targets)[:, 0]
    assert sorted(blue.tolist()) == [-1.0] * 16 + [0.0] * 2 + [1.0] * 6


def test_other_labels_are_another_fingerprint(tmp_path: Path) -> None:
    lines = [f"{i}.png,{'ab'[i % 2]}\n" for i in range(12)]
    for i in range(12):
        Image.new("RGB", (40, 40), (i, i, i)).save(tmp_path / f"{i}.png")
    fingerprints = []
    for changed in (lines, lines, [lines[0].replace("a", "b"), *lines[1:]]):
        (tmp_path / "labels.csv").write_text("".join(changed), encoding="utf-8")
        images = LabeledImages((str(tmp_path),), label_file=tmp_path / "labels.csv", workers=0)
        fingerprints.append((images.identity("train"), images.label_fingerprint()))
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[0][1] != fingerprints[2][1]


@pytest.mark.parametrize("text", ["", "a.png", "a.png,x,y"])
def test_label_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected"):
        LabelFile(tmp_path / "labels.csv")


def test_unlabeled_images_and_unknown_classes_are_refused(tmp_path: Path) -> None:
    for name in ("flat/a.png", "odd/unheard/a.png", "odd/car/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    with pytest.raises(DataError, match="folder of their own"):
        LabeledImages((str(tmp_path / "flat"),))
    with pytest.raises(DataError, match="folder of their own"):
        LabeledImages((str(tmp_path / "flat"),), max_images=10)
    with pytest.raises(DataError, match="unheard"):
        LabeledImages(("demo:40",), (str(tmp_path / "odd"),))


def noise(root: Path, *names: str, seed: int = 0) -> Path:
    """Images of noise, all different."""
    generator = np.random.default_rng(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return root


def names_of(*classes: str, count: int = 10) -> list[str]:
    return [f"{name}/{i}.png" for name in classes for i in range(count)]


def contents(images: LabeledImages, split: str) -> set[bytes]:
    return {image.numpy().tobytes() for batch, _ in images.batches(split, 16) for image in batch}


def test_copies_stay_on_one_side_and_are_counted(tmp_path: Path) -> None:
    noise(tmp_path / "p", *names_of("a", "b"))
    shutil.copytree(tmp_path / "p", tmp_path / "copy")
    data = LabeledImages((str(tmp_path / "p"), str(tmp_path / "copy")), workers=0)
    assert not contents(data, "train") & contents(data, "test")
    assert (data.total("train"), data.total("test")) == (32, 8)
    assert any("20 of 40 images are duplicates of another" in note for note in data.notes)


def test_copies_in_rows_stay_on_one_side(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    noise(tmp_path, *names_of("a", "b"))
    encoded = [(tmp_path / name).read_bytes() for name in names_of("a", "b")]
    labels = [name[0] for name in names_of("a", "b")]
    parquet.write_table(
        pa.table({"image": encoded * 2, "label": labels * 2}), tmp_path / "m.parquet"
    )
    data = LabeledImages((str(tmp_path / "m.parquet"),), workers=0)
    assert not contents(data, "train") & contents(data, "test")
    assert any("20 of 40 images are duplicates of another" in note for note in data.notes)


def test_copies_in_a_dataset_of_arrays_stay_on_one_side() -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    pairs = [(Image.fromarray(arrays[i % 20]), i % 2) for i in range(40)]
    data = LabeledImages(open_source(TwoClasses(pairs)), workers=0)
    assert not contents(data, "train") & contents(data, "test")


class TwoClasses(Dataset[Any]):
    classes = ("a", "b")

    def __init__(self, pairs: list[tuple[Image.Image, int]]) -> None:
        self.pairs, self.targets = pairs, [label for _, label in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.pairs[index]


def test_the_training_folder_is_no_test_folder(tmp_path: Path) -> None:
    noise(tmp_path / "p", *names_of("a", "b"))
    (tmp_path / "link").symlink_to(tmp_path / "p")
    for test in (tmp_path / "p", tmp_path / "p" / ".", tmp_path / "link"):
        with pytest.raises(UsageError, match="--test-data is the same as --data"):
            LabeledImages((str(tmp_path / "p"),), (str(test),), workers=0)


@pytest.mark.parametrize("held", ["test", "val"])
def test_a_folder_of_splits_is_used_as_such(tmp_path: Path, held: str) -> None:
    noise(tmp_path / "train", *names_of("a", "b"))
    noise(tmp_path / held, *names_of("a", "b", count=3), seed=1)
    data = LabeledImages((str(tmp_path),), workers=0)
    assert data.classes == ("a", "b")
    assert (data.total("train"), data.total("test")) == (20, 6)
    assert any(str(tmp_path / held) in note for note in data.notes)
    other = noise(tmp_path / "other", *names_of("a", "b", count=2), seed=2)
    named = LabeledImages((str(tmp_path / "train"),), (str(other),), workers=0)
    assert (named.total("train"), named.total("test")) == (20, 4)


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    noise(tmp_path, *names_of("bus", "car", "train"))
    assert LabeledImages((str(tmp_path),), workers=0).classes == ("bus", "car", "train")


def test_classes_are_numbered_in_numerical_order(tmp_path: Path) -> None:
    noise(tmp_path, *names_of("1", "10", "2", "cat"))
    assert LabeledImages((str(tmp_path),), workers=0).classes == ("1", "2", "10", "cat")


def test_classes_are_compared_in_nfc(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    train = noise(tmp_path / "u", *names_of(composed, "tea"))
    test = noise(tmp_path / "v", *names_of(decomposed, "tea", count=2), seed=1)
    data = LabeledImages((str(train),), (str(test),), workers=0)
    assert data.classes == (composed, "tea")


def test_images_without_a_class_are_left_out_and_counted(tmp_path: Path) -> None:
    noise(tmp_path, *names_of("a", "b"), "loose.png", "loose2.png")
    data = LabeledImages((str(tmp_path),), workers=0)
    assert data.total("train") + data.total("test") == 20
    assert any("2 of 22 images" in note and "loose.png" in note for note in data.notes)


def test_unreadable_images_are_in_no_count(tmp_path: Path) -> None:
    train = noise(tmp_path / "u", *names_of("a", "b"))
    test = noise(tmp_path / "v", *names_of("a", "b", count=4), seed=1)
    (test / "a" / "0.png").write_bytes(b"no image")
    data = LabeledImages((str(train),), (str(test),), workers=0)
    assert data.count("test") == 8
    read = torch.cat([indices for _, indices in data.batches("test", 16)])
    assert read.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (data.count("test"), data.total("test")) == (7, 8)
    assert list(data.unreadable("test")) == [0]
    assert list(data.skipped) == [str(test / "a" / "0.png")]
