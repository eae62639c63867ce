"""Sample ranges and color profiles: an image has the colors that its file states, or is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from made_images import cmyk_profile, gray_profile, rgb_profile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ssltool.data.color import to_rgb
from ssltool.data.decode import decode
from ssltool.data.sources.dataset import to_pixels
from ssltool.errors import UnreadableImage

RAMP = np.tile(np.arange(64), (16, 1))
SWAPPED = rgb_profile((2, 1, 0))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def read(image: Image.Image, kind: str, **options: object) -> NDArray[np.uint8]:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return np.asarray(decode(file))


def pgm(values: NDArray[np.int64], white: int) -> bytes:
    head = f"P5 {values.shape[1]} {values.shape[0]} {white}\n".encode()
    return head + values.astype(">u2").tobytes()


# Ranges


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("bits", [8, 10, 12, 13, 14])
def test_few_bits_in_16_are_refused_not_black(kind: str, bits: int) -> None:
    values = (RAMP * (2**bits - 1) // 63).astype(np.uint16)
    with pytest.raises(UnreadableImage, match=f"no value above {2**bits - 1} where white is 65535"):
        read(Image.fromarray(values), kind)


@pytest.mark.parametrize("bits", [8, 12, 14])
def test_few_bits_in_16_bit_color_are_refused(bits: int) -> None:
    values = (RAMP * (2**bits - 1) // 63).astype(np.uint16)
    with pytest.raises(UnreadableImage, match="fewer bits"):
        decode(io.BytesIO(png_of_16_bit_color(values)))


def test_full_16_bits_keep_their_high_byte() -> None:
    values = (RAMP * 1040).astype(np.uint16)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(read(Image.fromarray(values), "PNG"), expected)
    np.testing.assert_array_equal(decode(io.BytesIO(png_of_16_bit_color(values))), expected)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(values)), expected)


def png_of_16_bit_color(values: NDArray[np.uint16]) -> bytes:
    """A PNG file of three equal channels of 16 bits."""
    height, width = values.shape
    rows = np.repeat(values.astype(">u2")[..., None], 3, 2).reshape(height, -1).view(np.uint8)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1).tobytes()
    parts = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)]
    parts += [b"IDAT" + zlib.compress(data), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in parts
    )


def test_brightness_does_not_depend_on_what_else_is_in_an_image() -> None:
    values = np.full((16, 16), 20_000, np.uint16)
    alone = read(Image.fromarray(values), "PNG")[0, 0]
    values[8:] = 65_535
    assert (read(Image.fromarray(values), "PNG")[0, 0] == alone).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_black_is_black_at_every_scale(dtype: type) -> None:
    black = np.zeros((16, 16), dtype)
    assert not read(Image.fromarray(black), "TIFF").any()
    assert not to_pixels(Image.fromarray(black)).any()


@pytest.mark.parametrize("high", [1, 200, 65_535, 1_000_000])
def test_32_bit_integers_that_do_not_use_them_are_refused(high: int) -> None:
    values = np.zeros((16, 16), np.int32)
    values[:, 8:] = high
    for call in (lambda image: read(image, "TIFF"), to_rgb):
        with pytest.raises(UnreadableImage, match="where white is 2147483647"):
            call(Image.fromarray(values))


def test_32_bit_integers_that_use_them() -> None:
    values = np.zeros((16, 16), np.int32)
    values[:, 8:] = 2**31 - 1
    assert read(Image.fromarray(values), "TIFF")[0, [0, 15], 0].tolist() == [0, 255]


def test_negative_integers_are_refused() -> None:
    values = np.full((16, 16), -5, np.int32)
    with pytest.raises(UnreadableImage, match="values from -5 to -5"):
        read(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize("white", [1023, 4095, 16_383, 999])
def test_pgm_states_its_white(white: int) -> None:
    values = RAMP * white // 63
    gray = np.asarray(decode(io.BytesIO(pgm(values, white))))[..., 0].astype(int)
    assert np.abs(gray - values * 255 / white).max() <= 1
    dark = np.asarray(decode(io.BytesIO(pgm(values // 8, white))))[..., 0].astype(int)
    assert np.abs(dark - values // 8 * 255 / white).max() <= 1


def test_pgm_of_the_largest_white_may_use_less() -> None:
    with pytest.raises(UnreadableImage, match="fewer bits"):
        decode(io.BytesIO(pgm(RAMP * 65, 65_535)))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.2, 0.6, (51, 153)), (0.0, 1.0, (0, 255)), (0.5, np.nan, (128, 0)), (0.5, np.inf, (128, 0))],
)
def test_floats_in_0_to_1(low: float, high: float, expected: tuple[int, int]) -> None:
    values = np.full((16, 16), low, np.float32)
    values[:, 8:] = high
    assert tuple(read(Image.fromarray(values), "TIFF")[0, [0, 15], 0].tolist()) == expected


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        (-1.0, 1.0, "values from -1 to 1; expected 0 to 1"),
        (5.0, 10.0, "values from 5 to 10"),
        (-12.5, 8848.0, "values from -12.5 to 8848"),
        (0.0, 255.0, "values from 0 to 255"),
        (np.nan, np.nan, "without a finite value"),
    ],
)
def test_floats_of_other_ranges_are_refused(low: float, high: float, reason: str) -> None:
    values = np.full((16, 16), low, np.float32)
    values[:, 8:] = high
    with pytest.raises(UnreadableImage, match=reason):
        read(Image.fromarray(values), "TIFF")


def test_a_transparent_color_in_16_bits_is_refused() -> None:
    image = Image.fromarray((RAMP * 1040).astype(np.uint16))
    with pytest.raises(UnreadableImage, match="transparent color"):
        read(image, "PNG", transparency=1040)


# Profiles


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_is_converted_to_srgb(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    red = Image.new("RGB", (64, 64), (220, 30, 30))
    expected = ImageCms.profileToProfile(
        red, ImageCms.ImageCmsProfile(io.BytesIO(SWAPPED)), ImageCms.createProfile("sRGB")
    )
    for _ in range(2):
        found = read(red, kind, icc_profile=SWAPPED).astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 4
        monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)


def test_a_profile_counts_at_a_reduced_scale_too(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (200, 160), (220, 30, 30)).save(file, "JPEG", icc_profile=SWAPPED)
    fast = np.asarray(decode(file, 20))
    assert fast.shape == (20, 25, 3)
    assert np.abs(fast.astype(int) - [24, 24, 221]).max() <= 3
    monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)
    np.testing.assert_array_equal(fast, np.asarray(decode(file, 20)))


def test_a_long_profile_in_several_segments() -> None:
    profile = SWAPPED + bytes(150_000)
    assert len(profile) > 2 * 65_535
    read_pixels = read(Image.new("RGB", (16, 16), (220, 30, 30)), "JPEG", icc_profile=profile)
    assert np.abs(read_pixels.astype(int) - [24, 24, 221]).max() <= 3


@pytest.mark.parametrize("profile", [SRGB, b"broken", SWAPPED[:200], gray_profile(1.0)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_srgb_broken_and_foreign_profiles_change_nothing(profile: bytes, kind: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    np.testing.assert_array_equal(read(image, kind, icc_profile=profile), read(image, kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_gray_profile(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gray = Image.new("L", (32, 32), 100)
    linear = 255 * (1.055 * (100 / 255) ** (1 / 2.4) - 0.055)
    for _ in range(2):
        found = read(gray, kind, icc_profile=gray_profile(1.0))
        assert np.abs(found - linear).max() <= 1
        assert (read(gray, kind, icc_profile=SWAPPED) == 100).all()  # not of a gray image
        monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)


def test_a_gray_profile_of_16_bits() -> None:
    gray = Image.fromarray(np.full((16, 16), 100 * 257, np.uint16))
    assert (read(gray, "PNG", icc_profile=gray_profile(1.0)) == 168).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_cmyk_profile(kind: str) -> None:
    ink = Image.new("CMYK", (32, 32), (200, 0, 0, 128))
    found = read(ink, kind, icc_profile=cmyk_profile()).astype(int)
    assert np.abs(found - 118).max() <= 2  # L* 50 without color
    assert np.abs(read(ink, kind).astype(int) - [27, 127, 127]).max() <= 2


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
def test_colors_are_converted_before_they_lie_on_white(mode: str) -> None:
    image = Image.new("RGB", (16, 16), (220, 30, 30))
    profile, expected = SWAPPED, [24, 24, 221]
    if mode == "LA":
        image, profile, expected = Image.new("L", (16, 16), 100), gray_profile(1.0), [168] * 3
    if mode == "P":
        found = read(image.quantize(2), "PNG", icc_profile=profile)
    else:
        image.putalpha(102)
        expected = [round(value * 0.4 + 255 * 0.6) for value in expected]
        found = read(image, "PNG", icc_profile=profile)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_dataset_of_pil_images_follows_the_same_rules() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (220, 30, 30)).save(file, "PNG", icc_profile=SWAPPED)
    assert np.abs(to_pixels(Image.open(file)).astype(int) - [24, 24, 221]).max() <= 1
    with pytest.raises(UnreadableImage, match="transparent everywhere"):
        to_pixels(Image.new("RGBA", (16, 16)))
