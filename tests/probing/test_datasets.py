from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.errors import DataError, UsageError
from ssltool.probing.datasets import LabeledImages, read_label_file


def test_a_fifth_is_held_out_without_test_images() -> None:
    images = LabeledImages(("demo:100",), workers=0)
    assert (images.count("train"), images.count("test")) == (80, 20)
    assert torch.bincount(images.labels("test")).tolist() == [2] * 10


def test_a_source_is_as_good_as_its_path() -> None:
    by_path = LabeledImages(("demo:40",), ("demo-test:20",), workers=0)
    by_source = LabeledImages(open_source(("demo:40",)), open_source(("demo-test:20",)), workers=0)
    assert by_source.fingerprint("train") == by_path.fingerprint("train")
    assert by_source.fingerprint("test") == by_path.fingerprint("test")
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
        data = (str(tmp_path),)
        images = LabeledImages(data, data, label_file=tmp_path / "labels.csv", workers=0)
        fingerprints.append((images.fingerprint("train"), images.label_fingerprint()))
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[0][0] == fingerprints[2][0]
    assert fingerprints[0][1] != fingerprints[2][1]


@pytest.mark.parametrize("text", ["", "a.png", "a.png,x,y"])
def test_label_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected"):
        read_label_file(tmp_path / "labels.csv")


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
