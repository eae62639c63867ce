"""Tags of TIFF: every combination of tags gives the colors that the tags mean, or a refusal."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from made_images import tiff
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.decode import decode
from ssltool.errors import UnreadableImage

RAMP = np.tile(np.arange(64), (16, 1))[..., None]
COLORS = {0: 1, 1: 1, 2: 3}
MAX_VALUE, EXTRA, FORMAT, MAX_FLOAT = 281, 338, 339, 341


def read(data: bytes) -> NDArray[np.int64]:
    return np.asarray(decode(io.BytesIO(data))).astype(int)


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(io.BytesIO(data))
    return str(caught.value)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_combinations_of_tags_are_right_or_refused(photometric: int, bits: int) -> None:
    random = np.random.default_rng(bits)
    count = 0
    for order in "<>":
        for planes, deflate, differences in (
            *((False, False, False), (True, False, False), (False, True, False)),
            *((True, True, False), (False, True, True), (True, True, True)),
        ):
            for extra in (None, [], [0], [1], [2]):
                dtype = np.dtype(f"u{max(1, bits // 8) if bits in (8, 16, 32) else 4}")
                if differences and bits not in (8, 16, 32):
                    continue
                size = (16, 16, COLORS[photometric] + (extra is not None))
                values = random.integers(0, 2**bits, size, np.uint64).astype(dtype)
                values[0, 0], values[0, 1] = 2**bits - 1, 0
                expected = (values.astype(np.float64) * 256 / 2**bits).astype(int)
                if bits < 8:
                    expected = values.astype(int) * 255 // (2**bits - 1)
                expected = expected[..., : COLORS[photometric]]
                if photometric == 0:
                    expected = 255 - expected
                tags: dict[int, list[int]] = {EXTRA: extra, 34735: [1, 1, 0, 1]} if extra else {}
                data = tiff(values, photometric, bits, order, planes, deflate, differences, tags)
                try:
                    found = read(data)
                except UnreadableImage:
                    continue
                count += 1
                assert np.abs(found - expected).max() <= 1, (order, planes, deflate, extra)
    unsupported = {(p, b) for p in (0, 1, 2) for b in (10, 14)} | {(0, 12), (0, 32)}
    unsupported |= {(2, b) for b in (1, 2, 4, 12, 32)}
    assert (count == 0) == ((photometric, bits) in unsupported)


def test_white_is_zero_is_inverted_at_every_depth() -> None:
    for data in (
        tiff((RAMP * 4).astype(np.uint8), 0),
        tiff((RAMP * 1040).astype(np.uint16), 0),
        tiff((RAMP * 1040).astype(np.uint16), 0, deflate=True),
        tiff((RAMP / 63).astype(np.float32), 0, tags={FORMAT: [3]}),
        tiff(RAMP // 32, 0, bits=1),
    ):
        gray = read(data)[0, :, 0]
        assert gray[0] == 255
        assert gray[-1] <= 3
        assert (np.diff(gray) <= 0).all()


def test_fax_pages_are_black_on_white() -> None:
    page = Image.new("1", (64, 64), 1)
    page.paste(0, (8, 8, 24, 24))
    for compression in ("group3", "group4", "tiff_lzw"):
        file = io.BytesIO()
        page.save(file, "TIFF", compression=compression)
        np.testing.assert_array_equal(np.asarray(decode(file))[..., 0], np.asarray(page) * 255)


def test_declared_12_bits() -> None:
    gray = read(tiff(RAMP * 65, 1, bits=12))[0, :, 0]
    np.testing.assert_array_equal(gray, (RAMP * 65 >> 4)[0, :, 0])


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_max_sample_value_states_the_bits(bits: int) -> None:
    white = 2**bits - 1
    values = (RAMP * white // 63).astype(np.uint16)
    gray = read(tiff(values, 1, tags={MAX_VALUE: [white]}))[0, :, 0]
    np.testing.assert_array_equal(gray, (values >> (bits - 8))[0, :, 0])
    dark = read(tiff(values // 8, 1, tags={MAX_VALUE: [white]}))[0, :, 0]  # stays dark
    np.testing.assert_array_equal(dark, (values // 8 >> (bits - 8))[0, :, 0])
    assert f"expected 0 to {white}" in refusal(tiff(values * 2, 1, tags={MAX_VALUE: [white]}))


@pytest.mark.parametrize("bits", [8, 12, 15])
def test_color_of_fewer_bits_is_refused_for_pillow_keeps_the_high_byte(bits: int) -> None:
    values = np.repeat((RAMP * (2**bits - 1) // 63).astype(np.uint16), 3, -1)
    data = tiff(values, 2, tags={MAX_VALUE: [2**bits - 1]})
    assert f"color of {bits} bits in 16" in refusal(data)


def test_the_maximum_of_an_image_is_no_scale() -> None:
    values = (RAMP * 500).astype(np.uint16)
    gray = read(tiff(values, 1, tags={MAX_VALUE: [31_500]}))[0, :, 0]
    np.testing.assert_array_equal(gray, (values >> 8)[0, :, 0])


def test_floats_with_a_declared_maximum() -> None:
    values = (RAMP * 4).astype(np.float32)
    gray = read(tiff(values, 1, tags={FORMAT: [3], MAX_FLOAT: [255.0]}))[0, :, 0]
    np.testing.assert_array_equal(gray, values[0, :, 0].astype(int))
    assert "expected 0 to 1" in refusal(tiff(values, 1, tags={FORMAT: [3], MAX_FLOAT: [252.0]}))
    assert "expected 0 to 1" in refusal(tiff(values, 1, tags={FORMAT: [3]}))


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_integers(order: str) -> None:
    values = (RAMP * 520).astype(np.int16)
    gray = read(tiff(values, 1, order=order, tags={FORMAT: [2]}))[0, :, 0]
    np.testing.assert_array_equal(gray, (values >> 7)[0, :, 0])
    negative = tiff(values - np.int16(9), 1, order=order, tags={FORMAT: [2]})
    assert "values from -9" in refusal(negative)
    assert "signed samples of 8 bits" in refusal(
        tiff(RAMP.astype(np.uint8), 1, order=order, tags={FORMAT: [2]})
    )


def test_unsigned_32_bits_are_not_negative() -> None:
    values = (RAMP * (2**32 // 64)).astype(np.uint32)
    np.testing.assert_array_equal(read(tiff(values, 1))[0, :, 0], RAMP[0, :, 0] * 4)


# The fourth sample


def four(last: NDArray[np.generic] | int) -> NDArray[np.uint8]:
    ramp = RAMP.astype(np.uint8)
    down = np.repeat(np.arange(16, dtype=np.uint8)[:, None, None] * 15, 64, 1)
    plane = np.broadcast_to(np.asarray(last, np.uint8), ramp.shape[:2])[..., None]
    return np.concatenate([ramp * 4, down, 255 - ramp * 4, plane], -1)


@pytest.mark.parametrize("extra", [None, [0], [1], [2]])
@pytest.mark.parametrize("last", [10, RAMP[..., 0] * 3 + 9])
def test_infrared_is_not_opacity(last: NDArray[np.generic] | int, extra: list[int] | None) -> None:
    data = tiff(four(last), 2, tags={EXTRA: extra} if extra else {})
    if extra in ([1], [2]):
        assert "near infrared" in refusal(data)
    else:
        np.testing.assert_array_equal(read(data), four(last)[..., :3])


@pytest.mark.parametrize("last", [0, 255, 40, RAMP[..., 0] // 32 * 255])
def test_bands_of_a_geographic_file_are_never_opacity(last: NDArray[np.generic] | int) -> None:
    data = tiff(four(last), 2, tags={EXTRA: [2], 34735: [1, 1, 0, 1]})
    np.testing.assert_array_equal(read(data), four(last)[..., :3])


def test_a_mask_is_opacity() -> None:
    mask = RAMP[..., 0] // 32 * 255
    found = read(tiff(four(mask), 2, tags={EXTRA: [2]}))
    assert (found[:, :32] == 255).all()
    np.testing.assert_array_equal(found[:, 32:], four(mask)[:, 32:, :3])
    assert (read(tiff(four(255), 2, tags={EXTRA: [2]})) == four(255)[..., :3]).all()
    assert "transparent everywhere" in refusal(tiff(four(0), 2, tags={EXTRA: [2]}))


@pytest.mark.parametrize("extra", [[0], [2]])
def test_gray_with_another_sample(extra: Sequence[int]) -> None:
    values = np.concatenate([RAMP * 4, RAMP * 0 + 10], -1).astype(np.uint8)
    data = tiff(values, 1, tags={EXTRA: extra})
    if extra == [2]:
        assert "near infrared" in refusal(data)
    else:
        np.testing.assert_array_equal(read(data)[..., 0], RAMP[..., 0] * 4)


@pytest.mark.parametrize("extra", [[0, 0], [2, 0], [1, 0]])
def test_five_samples(extra: list[int]) -> None:
    values = np.concatenate([four(255), RAMP.astype(np.uint8)], -1)
    data = tiff(values, 2, tags={EXTRA: extra})
    if 1 in extra:
        assert "colors multiplied" in refusal(data)
    else:
        np.testing.assert_array_equal(read(data), values[..., :3])


# Other tags


def test_a_colormap_of_8_bits() -> None:
    indices = (RAMP % 2).astype(np.uint8)
    colors = np.zeros((3, 256), int)
    colors[:, 0], colors[:, 1] = (10, 20, 30), (200, 100, 50)
    for scale in (1, 257):
        found = read(tiff(indices, 3, tags={320: (colors * scale).ravel().tolist()}))
        assert found[0, :2].tolist() == [[10, 20, 30], [200, 100, 50]]


def test_a_missing_photometric_interpretation_is_refused() -> None:
    data = tiff((RAMP * 4).astype(np.uint8), 1)
    renamed = data.replace(b"\x06\x01\x03\0\x01", b"\x07\x01\x03\0\x01", 1)
    assert "photometric interpretation" in refusal(renamed)


def test_uncompressed_ycbcr_with_subsampling_is_refused() -> None:
    values = np.repeat(RAMP, 3, -1).astype(np.uint8)
    assert "subsampling" in refusal(tiff(values, 6))
    assert read(tiff(values, 6, tags={530: [1, 1]})).shape == (16, 64, 3)


def test_samples_that_cannot_be_read_are_named() -> None:
    assert "samples of a kind" in refusal(tiff(RAMP, 1, bits=14))
