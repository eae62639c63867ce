from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.errors import DataError, UnreadableImage


class Holed(Source):
    """Image i has the shade i; those in ``missing`` cannot be read."""

    description = "holed images"

    def __init__(self, count: int, missing: set[int]) -> None:
        self._count, self._missing, self.reads = count, missing, 0

    def __len__(self) -> int:
        return self._count

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        self.reads += 1
        if index in self._missing:
            raise UnreadableImage("no such file or directory")
        return np.full((size, size, 3), index, np.uint8)

    def short_side(self, index: int) -> int:
        return 8

    def name(self, index: int) -> str:
        return f"{index}.png"

    def label(self, index: int) -> int | None:
        return None


def test_the_next_readable_image_stands_in_for_one_that_is_not() -> None:
    images, indices = sample(Holed(91, {0, 10, 11, 12, 50}), 4, 10)
    assert indices.tolist() == [1, 13, 20, 30, 40, 51, 60, 70, 80, 90]
    assert images[:, 0, 0, 0].tolist() == indices.tolist()
    assert (images.shape, images.dtype) == ((10, 3, 4, 4), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_image_may_stand_in_from_anywhere() -> None:
    """The second half is gone, and the last readable image is found."""
    assert sample(Holed(20, set(range(10, 20))), 4, 4)[1].tolist() == [0, 1, 2, 6]
    assert sample(Holed(20, set(range(20)) - {7}), 4, 4)[1].tolist() == [7]


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 45), st.sets(st.integers(0, 39)))
def test_as_many_as_can_be_read_and_none_is_tried_twice(
    size: int, count: int, missing: set[int]
) -> None:
    source, readable = Holed(size, missing), set(range(size)) - missing
    if not readable:
        with pytest.raises(DataError, match=r"no image of holed images .*0\.png: no such file"):
            sample(source, 2, count)
    else:
        indices = sample(source, 2, count)[1].tolist()
        assert len(indices) == min(count, len(readable))
        assert set(indices) <= readable
        assert sorted(set(indices)) == indices
    assert source.reads <= size


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    from PIL import Image

    from ssltool.data.sources.registry import open_source

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    source = open_source((str(folder),))
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        sample(source, 8, 4)
