"""Decoding: the rules of every mode and format, what is refused, and that damage never escapes as
something else.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from torchvision import transforms

from ssltool.data import decode as decode_module
from ssltool.data.decode import DECODE_VERSION, decode, decode_identity, read_square
from ssltool.data.opening import MIN_SIDE, dimensions
from ssltool.data.resizing import square
from ssltool.errors import UnreadableImage

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's warnings must not reach the user

ORIENTATION = 0x0112


def scene(width: int, height: int) -> Image.Image:
    """A smooth image without any symmetry: red grows to the right, green downwards, blue to the
    upper left.
    """
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(
        (np.stack([x, y**2, (1 - x) * (1 - y)], -1) * 255).round().astype(np.uint8)
    )


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def pixels(file: io.BytesIO | Path, short_side: int | None = None) -> NDArray[np.uint8]:
    image = decode(file, short_side)
    assert image.mode == "RGB"
    return np.asarray(image)


def halves(left: object, right: object, mode: str) -> Image.Image:
    image = Image.new(mode, (16, 16), left)
    image.paste(right, (8, 0, 16, 16))
    return image


def png_of_size(width: int, height: int) -> bytes:
    """A correct PNG header that promises ``width`` x ``height`` gray pixels, with a few bytes of
    them.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(100_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


# Modes and formats


def test_plain_rgb_is_unchanged() -> None:
    image = scene(20, 12)
    for kind in ("PNG", "BMP", "TIFF", "PPM", "TGA"):
        np.testing.assert_array_equal(pixels(saved(image, kind)), np.asarray(image), err_msg=kind)


def test_gray_becomes_three_equal_channels() -> None:
    gray = scene(20, 12).convert("L")
    np.testing.assert_array_equal(pixels(saved(gray, "PNG")), np.stack([np.asarray(gray)] * 3, -1))


def test_black_and_white() -> None:
    read = pixels(saved(halves(0, 1, "1"), "PNG"))
    assert read[0, 0].tolist() == [0, 0, 0]
    assert read[0, 15].tolist() == [255, 255, 255]


def test_cmyk_jpeg() -> None:
    # Full cyan and no other ink is (0, 255, 255); half black alone is mid gray.
    read = pixels(
        saved(halves((255, 0, 0, 0), (0, 0, 0, 128), "CMYK"), "JPEG", quality=100)
    ).astype(int)
    assert np.abs(read[8, 2] - [0, 255, 255]).max() <= 3
    assert np.abs(read[8, 13] - [127, 127, 127]).max() <= 3


def test_16_bit_gray_keeps_the_high_byte() -> None:
    values = np.full((16, 16), 0x12FF, np.uint16)
    values[:, 8:] = 0xFE01
    for kind in ("PNG", "TIFF"):
        read = pixels(saved(Image.fromarray(values), kind))
        assert read[0, 0].tolist() == [0x12] * 3, kind
        assert read[0, 15].tolist() == [0xFE] * 3, kind


def test_palette() -> None:
    image = halves((10, 200, 30), (250, 0, 90), "RGB")
    np.testing.assert_array_equal(pixels(saved(image.quantize(2), "PNG")), np.asarray(image))


def test_palette_with_a_transparent_entry_lies_on_white() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.paste(1, (8, 0, 16, 16))
    for kind in ("PNG", "GIF"):
        read = pixels(saved(image, kind, transparency=0))
        assert read[0, 0].tolist() == [255, 255, 255], kind
        assert read[0, 15].tolist() == [200, 100, 0], kind


def test_palette_with_graded_alpha() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 200, 100, 0])
    image.paste(1, (8, 0, 16, 16))
    read = pixels(saved(image, "PNG", transparency=bytes([51, 255])))  # black at one fifth
    assert read[0, 0].tolist() == [204, 204, 204]
    assert read[0, 15].tolist() == [200, 100, 0]


def test_gray_with_alpha_lies_on_white() -> None:
    read = pixels(saved(halves((0, 51), (100, 255), "LA"), "PNG"))
    assert read[0, 0].tolist() == [204, 204, 204]
    assert read[0, 15].tolist() == [100, 100, 100]


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_rgba_lies_on_white(kind: str, options: dict[str, object]) -> None:
    image = halves((255, 0, 0, 255), (9, 8, 7, 0), "RGBA")
    image.paste((255, 0, 0, 51), (0, 0, 4, 16))
    read = pixels(saved(image, kind, **options))
    assert read[0, 0].tolist() == [255, 204, 204]
    assert read[0, 7].tolist() == [255, 0, 0]
    assert read[0, 15].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "RGBA") for kind in ("PNG", "WEBP", "TIFF", "GIF", "AVIF", "TGA", "JPEG2000")),
        *((kind, "LA") for kind in ("PNG", "TIFF", "JPEG2000")),
        *((kind, "P") for kind in ("PNG", "GIF")),
    ],
)
def test_an_image_that_is_transparent_everywhere_is_refused(kind: str, mode: str) -> None:
    image = scene(16, 16).convert("L" if mode == "LA" else "RGB")
    options: dict[str, object] = {}
    if mode == "P":
        image, options = Image.new("P", (16, 16), 0), {"transparency": 0}
        image.putpalette([10, 20, 30])
    else:
        image.putalpha(0)
    assert "transparent everywhere" in refusal(decode, saved(image, kind, **options))


def test_rgb_with_a_transparent_color_lies_on_white() -> None:
    read = pixels(saved(halves((1, 2, 3), (9, 8, 7), "RGB"), "PNG", transparency=(1, 2, 3)))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[0, 15].tolist() == [9, 8, 7]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_several_frames_give_the_first(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    read = pixels(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (read == [255, 0, 0]).all()


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_as_pillow_does_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = saved(scene(48, 32), kind, exif=exif)
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    read = decode(file)
    assert read.size == ((48, 32) if orientation < 5 else (32, 48))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_at_a_reduced_scale(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = saved(scene(192, 128), "JPEG", exif=exif, quality=95)
    reduced = decode(file, short_side=32)
    assert sorted(reduced.size) == [32, 48]
    full = decode(file).resize(reduced.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(reduced).astype(int) - np.asarray(full)).mean() < 2


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert decode(saved(scene(48, 32), "JPEG", exif=exif)).size == (48, 32)


@pytest.mark.parametrize(
    "before",
    [b"", b"\xff\xfe\x00\x06note", b"\xff\xfe\x00\x06\xff\xda\xff\xda", b"\xff\xff"],
    ids=repr,
)
def test_exif_is_read_after_other_segments_and_padding(before: bytes) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = saved(scene(48, 32), "JPEG", exif=exif).getvalue()
    offset = data.index(b"\xff\xe1")
    assert decode(io.BytesIO(data[:offset] + before + data[offset:])).size == (32, 48)


def test_a_damaged_exif_block_is_ignored() -> None:
    file = saved(scene(48, 32), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode(file).size == (48, 32)


# Sizes


@pytest.mark.parametrize("size", [16, 17, 31, 32, 33, 64, 100])
def test_reduced_decoding_never_falls_below_the_target(size: int) -> None:
    file = saved(scene(257, 129), "JPEG")
    short = min(decode(file, short_side=size).size)
    assert size <= short <= 129
    assert short < 2 * size + 2 or short == 129


def test_reduced_decoding_is_close_to_full_decoding() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (400, 600, 3))
    image = Image.fromarray((np.asarray(scene(600, 400)) + noise).clip(0, 255).astype(np.uint8))
    file = saved(image, "JPEG", quality=90)
    for size in (32, 64, 96):
        assert min(decode(file, short_side=size).size) < 400
        difference = read_square(file, size).astype(int) - square(np.asarray(decode(file)), size)
        assert np.abs(difference).mean() < 2


@pytest.mark.parametrize(("width", "height"), [(8, 8), (9, 20), (30, 8)])
def test_small_images_are_enlarged(width: int, height: int) -> None:
    for kind in ("PNG", "JPEG"):
        read = read_square(saved(Image.new("RGB", (width, height), (10, 100, 200)), kind), 64)
        assert read.shape == (64, 64, 3)
        assert read.dtype == np.uint8
        assert np.abs(read.astype(int) - [10, 100, 200]).max() <= 3


@pytest.mark.parametrize("wide", [True, False])
def test_the_square_is_the_centre(wide: bool) -> None:
    strip = np.zeros((10, 30, 3), np.uint8)
    strip[:, :10], strip[:, 10:20], strip[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    image = Image.fromarray(strip if wide else strip.transpose(1, 0, 2))
    assert (square(np.asarray(image), 10) == (0, 255, 0)).all()
    assert (square(np.asarray(image), 40)[10:30, 10:30] == (0, 255, 0)).all()


@given(st.integers(8, 300), st.integers(8, 300), st.integers(4, 200), st.integers(0, 9))
@settings(max_examples=40)
def test_the_square_is_that_of_torchvision(width: int, height: int, size: int, seed: int) -> None:
    assume(max(width, height) <= 16 * min(width, height))
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    resized = transforms.functional.resize(image, size)  # by Pillow, as timm does
    expected = np.asarray(transforms.functional.center_crop(resized, size)).astype(int)
    # Torch begins with the height and Pillow with the width, each rounds to whole levels.
    assert np.abs(square(noise, size) - expected).max() <= 1


def test_long_images_are_read_at_the_middle() -> None:
    strip = np.zeros((8, 20_000, 3), np.uint8)
    strip[:, 9_996:10_004] = 255
    assert (square(strip, 8) == 255).all()
    assert square(strip, 1024).shape == (1024, 1024, 3)
    assert (square(strip.swapaxes(0, 1), 8) == 255).all()


def test_a_square_of_the_same_size_is_a_plain_cut() -> None:
    image = scene(41, 17)
    np.testing.assert_array_equal(square(np.asarray(image), 17), np.asarray(image)[:, 12:29])


def test_a_path_and_a_stream_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    scene(70, 50).save(path)
    expected = read_square(io.BytesIO(path.read_bytes()), 20)
    np.testing.assert_array_equal(read_square(path, 20), expected)
    np.testing.assert_array_equal(read_square(str(path), 20), expected)
    assert dimensions(path) == (70, 50)


# Refusals


def refusal(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(UnreadableImage) as caught:
        call(*arguments)
    reason = str(caught.value)
    assert reason
    assert reason.isprintable()  # so on one line
    return reason


def test_text_with_a_image_ending(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no image\n")
    assert refusal(decode, path) == "not an image in a known format"
    assert refusal(dimensions, path) == "not an image in a known format"


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    assert refusal(decode, path) == "empty file"
    assert refusal(decode, io.BytesIO()) == "empty file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kind: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = saved(noise, kind).getvalue()
    refusal(decode, io.BytesIO(data[: int(len(data) * part)]))
    refusal(decode, io.BytesIO(data[: int(len(data) * part)]), 16)


def test_reasons_of_truncated_files() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind in ("JPEG", "PNG"):
        data = saved(noise, kind).getvalue()
        assert "truncated" in refusal(decode, io.BytesIO(data[: len(data) // 2]))


@pytest.mark.parametrize("sides", [(1, 1), (MIN_SIDE - 1, 500), (500, MIN_SIDE - 1)])
def test_tiny_images(sides: tuple[int, int]) -> None:
    file = saved(Image.new("RGB", sides), "PNG")
    assert refusal(decode, file) == f"{sides[0]}x{sides[1]} px, smaller than {MIN_SIDE} px"
    assert refusal(dimensions, file) == f"{sides[0]}x{sides[1]} px, smaller than {MIN_SIDE} px"


@pytest.mark.parametrize("sides", [(20_000, 20_000), (14_000, 13_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_before_their_pixels_exist(
    sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("pixels were allocated")

    monkeypatch.setattr(Image.core, "new", refuse)
    monkeypatch.setattr(Image.core, "fill", refuse)
    bomb = png_of_size(*sides)
    assert len(bomb) < 1000
    for limit in (Image.MAX_IMAGE_PIXELS, None):  # other libraries switch Pillow's own limit off
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert refusal(decode, io.BytesIO(bomb)) == "more than 179 megapixels"
        assert refusal(dimensions, io.BytesIO(bomb)) == "more than 179 megapixels"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    scene(16, 16).save(path)
    path.chmod(0)
    assert refusal(decode, path) == "permission denied"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert refusal(decode, tmp_path / "none.png") == "no such file or directory"
    assert refusal(decode, tmp_path) == "is a directory"


def test_formats_off_the_list_are_not_tried() -> None:
    file = saved(scene(16, 16), "EPS")
    assert refusal(decode, file) == "not an image in a known format"


def test_truncation_is_refused_where_pillow_is_told_to_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = saved(scene(64, 64), kind).getvalue()
        assert refusal(decode, io.BytesIO(data[: len(data) * 3 // 4]))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_identity_names_all_that_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = decode_identity()
    assert f"decode rules {DECODE_VERSION};" in identity
    assert f"Pillow {PIL.__version__};" in identity
    assert f"torch {torch.__version__};" in identity
    monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)
    assert "simplejpeg none" in decode_identity()
    monkeypatch.setattr("ssltool.data.decode.DECODE_VERSION", DECODE_VERSION + 1)
    assert f"decode rules {DECODE_VERSION + 1};" in decode_identity()


# Damage

SMALL = {
    "jpeg": saved(scene(24, 20), "JPEG", exif=Image.Exif()).getvalue(),
    "progressive": saved(scene(24, 20), "JPEG", progressive=True).getvalue(),
    "png": saved(scene(24, 20), "PNG").getvalue(),
    "palette": saved(scene(24, 20).quantize(8), "PNG", transparency=0).getvalue(),
    "gif": saved(
        scene(24, 20), "GIF", save_all=True, append_images=[scene(24, 20).rotate(180)]
    ).getvalue(),
    "webp": saved(scene(24, 20), "WEBP").getvalue(),
    "tiff": saved(scene(24, 20), "TIFF", compression="tiff_lzw").getvalue(),
}


@settings(max_examples=150, derandomize=True)
@given(kind=st.sampled_from(sorted(SMALL)), data=st.data())
def test_damage_gives_a_square_or_a_refusal(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(SMALL[kind])
    for _ in range(data.draw(st.integers(0, 6), label="flips")):
        offset = data.draw(st.integers(0, len(damaged) - 1), label="place")
        damaged[offset] ^= data.draw(st.integers(1, 255), label="mask")
    length = data.draw(
        st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))), label="length"
    )
    reason = "none"
    try:
        read = read_square(io.BytesIO(bytes(damaged[:length])), 16)
    except UnreadableImage as error:
        read, reason = np.zeros((16, 16, 3), np.uint8), str(error)
    assert (read.shape, read.dtype) == ((16, 16, 3), np.uint8)
    assert reason
    assert reason.isprintable()


# The faster JPEG reader


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}, {"gray": True}]
)
@pytest.mark.parametrize("size", [300, 90, 40, 20])
def test_both_jpeg_readers_give_the_same_pixels(
    options: dict[str, Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    options = dict(options)
    image = scene(301, 203).convert("L" if options.pop("gray", False) else "RGB")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        image.save(file, "JPEG", exif=exif, **options)
        with monkeypatch.context() as without:
            fast = np.asarray(decode(file, size))
            without.setattr("ssltool.data.decode_jpeg.simplejpeg", None)
            np.testing.assert_array_equal(fast, np.asarray(decode(file, size)))
        assert (fast.shape[0] > fast.shape[1]) == (orientation > 4)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [None, 90, 20])
def test_a_jpeg_without_exif_is_the_same_with_and_without_pillow(
    mode: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    file = saved(scene(301, 203).convert(mode), "JPEG")
    with monkeypatch.context() as without:
        if mode != "CMYK":
            without.setattr("ssltool.data.decode.opened_image", None)
            without.setattr("ssltool.data.decode_jpeg.opened_image", None)
        fast = np.asarray(decode(file, size))
    file.seek(0)
    monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)
    np.testing.assert_array_equal(fast, np.asarray(decode(file, size)))


def test_an_orientation_in_xmp_is_applied() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(saved(scene(60, 40), "JPEG", xmp=xmp)).size == (40, 60)


def test_what_the_faster_reader_refuses_is_judged_by_pillow() -> None:
    file = saved(scene(60, 40), "JPEG")
    plain = np.asarray(decode(file))
    file.seek(0)
    data = file.read()
    odd = data[:-2] + b"some bytes too many" + data[-2:]  # Pillow reads these
    np.testing.assert_array_equal(np.asarray(decode(io.BytesIO(odd))), plain)
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(io.BytesIO(data[: len(data) // 2]))


@pytest.mark.parametrize("band", [1, 100, 12 * 40, 2**20])
def test_pixels_do_not_depend_on_the_bands_they_are_copied_in(
    band: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(decode_module, "_BAND", band)
    assert np.array_equal(np.asarray(decode(tmp_path / "a.png")), pixels)
