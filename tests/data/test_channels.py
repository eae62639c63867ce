"""Images as they are: ranges, bytes, and a source of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from made_channels import write_bands
from PIL import Image

from ssltool.data.channels import Channels, measured
from ssltool.data.loader import AllImages
from ssltool.data.ranges import parse_range
from ssltool.data.sources.channels import ChannelSource
from ssltool.data.sources.registry import open_source
from ssltool.errors import DataError, UnreadableImage, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bands("demo:24", tmp_path_factory.mktemp("bands"), 24)


@settings(deadline=None, max_examples=60)
@given(low=st.floats(-1000, 1000), width=st.floats(0.5, 5000), value=st.integers(-32768, 32767))
def test_levels_are_linear_between_the_ends(low: float, width: float, value: int) -> None:
    how = Channels(((low, low + width),), "int16")
    level = how.levels(np.full((1, 1, 1), value, np.int16))[0, 0, 0]
    expected = 255 * min(1.0, max(0.0, (value - low) / width))
    assert level == pytest.approx(expected, abs=255 * 4e-3)


def test_levels_of_what_is_no_number() -> None:
    values = np.array([[[np.nan], [np.inf], [-np.inf], [3.0]]], np.float32)
    levels = Channels(((1.0, 5.0),), "float32").levels(values)
    np.testing.assert_allclose(levels.ravel(), [0, 0, 0, 127.5])


def test_ranges_are_percentiles_of_all_images(folder: Path) -> None:
    source = open_source(str(folder))
    how = measured(source, 5, "auto")
    every = np.concatenate([source.values(i).reshape(-1, 5) for i in range(len(source))])
    expected = np.percentile(every.astype(float), (0.1, 99.9), axis=0).T
    np.testing.assert_allclose(how.ranges, expected)
    assert how.value_type == "uint16"
    assert measured(source, 5, "0,4095").ranges == ((0.0, 4095.0),) * 5


def test_squares_against_a_plain_resize(folder: Path) -> None:
    source = open_source(str(folder))
    how = measured(source, 5, "auto")
    read = ChannelSource(source, how).read(3, 12)
    low, high = np.array(how.ranges).T
    scaled = np.clip((source.values(3) - low) / (high - low) * 255, 0, 255)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((12, 12), Image.BILINEAR))
        for plane in scaled.transpose(2, 0, 1)
    ]
    assert read.shape == (12, 12, 5)
    assert np.abs(read - np.stack(planes, axis=-1)).max() <= 0.51


def test_bytes_of_three_channels_are_those_of_rgb(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rgb = open_source(str(tmp_path))
    own = ChannelSource(rgb, measured(rgb, 3, "auto"))
    np.testing.assert_array_equal(own.read(0, 32), rgb.read(0, 32))
    np.testing.assert_array_equal(own.read_whole(0, 32)[0], rgb.read_whole(0, 32)[0])


def test_other_channels_and_types_are_unreadable(folder: Path, tmp_path: Path) -> None:
    source = open_source(str(folder))
    how = measured(source, 5, "auto")
    for name, values in {
        "a.tif": np.zeros((4, 16, 16), np.uint16),
        "b.tif": np.zeros((5, 16, 16), np.uint8),
    }.items():
        tifffile.imwrite(tmp_path / name, values, photometric="minisblack")
    others = ChannelSource(open_source(str(tmp_path)), how)
    with pytest.raises(UnreadableImage, match="4 channels; expected 5"):
        others.read(0, 16)
    with pytest.raises(UnreadableImage, match="values of uint8; expected uint16"):
        others.read(1, 16)
    with pytest.raises(DataError, match="5 channels; --channels 7 was typed"):
        measured(source, 7, "auto")


def test_identity_covers_how_files_are_read(folder: Path) -> None:
    source = open_source(str(folder))
    ways = [measured(source, 5, text) for text in ("auto", "0,4095", "0,4096")]
    prints = {ChannelSource(source, how).fingerprint() for how in ways}
    assert len(prints | {source.fingerprint()}) == 4
    names = {text.partition("-")[2] for text in prints | {source.fingerprint()}}
    assert len(names) == 1


def test_batches_have_the_channels(folder: Path) -> None:
    source = open_source(str(folder))
    own = ChannelSource(source, measured(source, 5, "auto"))
    with AllImages(own, size=16, batch_size=10, workers=0) as batches:
        shapes = [tuple(batch.images.shape) for batch in batches]
    assert shapes == [(10, 5, 16, 16), (10, 5, 16, 16), (4, 5, 16, 16)]


def test_arrays_are_images_where_files_are_read_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((16, 16, 2), np.float32))
    with pytest.raises(DataError):
        open_source(str(tmp_path))
    assert len(open_source(str(tmp_path), arrays=True)) == 1


@pytest.mark.parametrize(
    "text", ["1", "5,1", "a,b", "1,2,3", "0,nan", "", "0,inf", "-1e308,1e308", "0,1e-300"]
)
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--value-range"):
        parse_range(text, 5)


def test_ranges_channel_by_channel() -> None:
    assert parse_range("0,1,-5,7", 2) == ((0.0, 1.0), (-5.0, 7.0))
    assert parse_range("auto", 2) is None
