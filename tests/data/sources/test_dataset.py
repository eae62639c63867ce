"""Torch datasets as sources: item types, labels, fingerprints and one-line errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData

from ssltool.data.loader import AllImages
from ssltool.data.sources.dataset import DatasetSource, to_pixels
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.survey import survey
from ssltool.errors import DataError, UnreadableImage, UsageError


class Items(Dataset[Any]):
    """A dataset of the items given; an exception among them is raised."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def pixels(seed: int = 0, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "form",
    [
        Image.fromarray,
        lambda x: x,
        lambda x: x.transpose(2, 0, 1),
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x).permute(2, 0, 1),
        lambda x: torch.from_numpy(x).permute(2, 0, 1).float() / 255,
        lambda x: (x / 255).astype(np.float32),
    ],
)
def test_all_forms_of_an_image_give_the_same_pixels(form: Any) -> None:
    assert np.array_equal(to_pixels(form(pixels())), pixels())


@pytest.mark.parametrize(
    "form",
    [
        Image.fromarray,
        torch.from_numpy,
        lambda x: torch.from_numpy(x)[None],
        lambda x: x[..., None],
        lambda x: torch.from_numpy(x).double() / 255,
    ],
)
def test_gray_images_have_three_equal_channels(form: Any) -> None:
    gray = pixels()[..., 0]
    assert np.array_equal(to_pixels(form(gray)), np.stack([gray] * 3, axis=2))


def test_an_ambiguous_shape_has_channels_first_in_a_tensor_and_last_in_an_array() -> None:
    values = pixels(height=3, width=3)
    with pytest.raises(UnreadableImage, match="3x3 px, smaller than 8 px"):
        to_pixels(values)
    tall = np.zeros((3, 40, 3), np.uint8)
    with pytest.raises(UnreadableImage, match="40x3 px"):
        to_pixels(tall)
    with pytest.raises(UnreadableImage, match="3x40 px"):
        to_pixels(torch.from_numpy(tall))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("cat.jpg", "is a str; expected an image"),
        ({"image": 1}, "is a dict; expected an image"),
        (np.zeros((16, 16, 4), np.uint8), r"shape \[16, 16, 4\]"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "an array of int64"),
        (torch.full((3, 16, 16), 2.0), "values from 2 to 2; expected 0..1"),
        (torch.full((3, 16, 16), float("nan")), "values from nan"),
        ((pixels(), 1, 2), "an item of 3 parts"),
        ((pixels(), "cat"), "labeled by a str; expected an int"),
        ((pixels(), torch.zeros(2)), "labeled by a Tensor"),
        ((pixels(), 0.5), "labeled by a float"),
    ],
)
def test_wrong_items_are_one_line(item: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        DatasetSource(Items(item))
    assert "item 0 of Items" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_datasets_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(UsageError, match="Stream has no length; give a map-style dataset"):
        DatasetSource(Stream())
    with pytest.raises(DataError, match="no images in Items: it is empty"):
        DatasetSource(Items())


def test_torchvision_fake_data() -> None:
    dataset = FakeData(6, (3, 20, 24), num_classes=4)
    source = open_source(dataset)
    assert (len(source), source.description) == (6, "6 images in FakeData")
    assert source.read(0, 20).shape == (20, 20, 3)
    assert (source.short_side(0), source.image(0, 10).size) == (20, (12, 10))
    assert source.image(0, 500).size == (24, 20)
    assert [source.label(i) for i in range(6)] == [int(dataset[i][1]) for i in range(6)]
    assert source.classes == tuple(map(str, range(max(int(dataset[i][1]) for i in range(6)) + 1)))
    assert source.fingerprint() == open_source([dataset]).fingerprint()
    assert (
        source.fingerprint()
        != DatasetSource(FakeData(6, (3, 20, 24), random_offset=1)).fingerprint()
    )


def test_labels_that_are_stored_are_taken_without_reading_images() -> None:
    class Stored(Items):
        targets = (2, 0, -1)
        classes = ("ant", "bee", "cat")

    images = (pixels(0), pixels(1), pixels(2))
    dataset = Stored(*zip(images, Stored.targets, strict=True))
    source = DatasetSource(dataset)
    dataset.items = ()
    assert [source.label(i) for i in range(3)] == [2, 0, None]
    assert source.classes == ("ant", "bee", "cat")
    part = Subset(Stored(*zip(images, Stored.targets, strict=True)), [1, 0])
    assert [DatasetSource(part).label(i) for i in range(2)] == [0, 2]
    assert DatasetSource(part).classes == ("ant", "bee", "cat")


def test_classes_are_put_in_order_and_labels_with_them() -> None:
    class Stored(Items):
        targets = (2, 0, 1)
        classes = ("10", "9", "ant")

    source = DatasetSource(Stored(*zip(map(pixels, range(3)), Stored.targets, strict=True)))
    assert source.classes == ("9", "10", "ant")
    assert [source.label(i) for i in range(3)] == [2, 1, 0]
    Stored.targets = (3, 0, 1)
    with pytest.raises(DataError, match="is of class 3, but 3 classes have names"):
        DatasetSource(Stored(*zip(map(pixels, range(3)), Stored.targets, strict=True))).label(0)


def test_tensor_datasets_with_and_without_labels() -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    source = DatasetSource(TensorDataset(images, torch.tensor([1, 0, 1, 1])))
    assert [source.label(i) for i in range(4)] == [1, 0, 1, 1]
    assert np.array_equal(source.read(2, 16), images[2].permute(1, 2, 0).numpy())
    unlabeled = DatasetSource(TensorDataset(images))
    assert (unlabeled.classes, unlabeled.label(0)) == ((), None)
    assert unlabeled.fingerprint() != source.fingerprint()


def test_workers_read_a_dataset_and_skip_what_it_cannot_give() -> None:
    broken = OSError("image file is truncated")
    dataset = Items(broken, *((pixels(seed), seed % 2) for seed in range(5)), "not an image")
    source = DatasetSource(dataset)
    with AllImages(source, size=12, batch_size=4, workers=1) as batches:
        indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == [1, 2, 3, 4, 5]
    assert batches.skipped["item 0 of Items"] == "OSError: image file is truncated"
    assert "a str; expected an image" in batches.skipped["item 6 of Items"]
    assert [source.label(i) for i in range(7)] == [None, 0, 1, 0, 1, 0, None]
    assert survey(source).count == 7


def test_a_source_can_be_sent_to_workers_that_are_not_forked() -> None:
    source = DatasetSource(TensorDataset(torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 0])))
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read(1, 16), source.read(1, 16))
    assert [copy.label(i) for i in range(3)] == [0, 1, 0]


def test_datasets_join_folders_and_sources_pass_through(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    joined = open_source([tmp_path, Items(pixels(1)), "demo:3"])
    assert len(joined) == 5
    assert np.array_equal(joined.read(1, 12), DatasetSource(Items(pixels(1))).read(0, 12))
    assert open_source(joined) is joined
    assert len(open_source(str(tmp_path))) == 1
