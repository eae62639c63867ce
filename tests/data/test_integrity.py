"""Incomplete files: cut, closed after a cut or filled with zeros, an image is whole or refused."""

from __future__ import annotations

import io
import struct
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import ssltool.data.decode_jpeg
from ssltool.data import jpeg
from ssltool.data.decode import decode
from ssltool.errors import UnreadableImage

FAST = ssltool.data.decode_jpeg.simplejpeg


def scene(mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (6, 7, 3), np.uint8)).resize((56, 48))
    noise = random.integers(-9, 9, (48, 56, 3))
    image = Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.new("L", image.size, 255))
        image.putpixel((0, 0), (9, 9, 9, 0))
        return image
    return image.convert(mode)


def turned() -> Image.Image:
    return scene().transpose(Image.Transpose.ROTATE_180)


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg optimized": ("JPEG", "RGB", {"optimize": True, "subsampling": 0}),
    "jpeg progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg restarts": ("JPEG", "RGB", {"restart_marker_blocks": 2}),
    "jpeg gray": ("JPEG", "L", {}),
    "jpeg cmyk": ("JPEG", "CMYK", {}),
    "mpo": ("MPO", "RGB", {"save_all": True, "append_images": [turned()]}),
    "png": ("PNG", "RGB", {}),
    "png palette": ("PNG", "P", {}),
    "apng": ("PNG", "RGB", {"save_all": True, "append_images": [turned()]}),
    "ico": ("ICO", "RGB", {"sizes": [(32, 32)]}),
    "gif": ("GIF", "P", {}),
    "gif animated": ("GIF", "RGB", {"save_all": True, "append_images": [turned()]}),
    "webp": ("WEBP", "RGB", {}),
    "webp lossless": ("WEBP", "RGB", {"lossless": True}),
    "webp alpha": ("WEBP", "RGBA", {}),
    "webp animated": ("WEBP", "RGB", {"save_all": True, "append_images": [turned()]}),
    "avif": ("AVIF", "RGB", {}),
    "avif alpha": ("AVIF", "RGBA", {}),
    "jpeg 2000": ("JPEG2000", "RGB", {}),
    "jpeg 2000 lossy": ("JPEG2000", "RGB", {"irreversible": True, "no_jp2": True}),
    "tiff lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff fax": ("TIFF", "1", {"compression": "group4"}),
    "tiff": ("TIFF", "RGB", {}),
    "bmp": ("BMP", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "tga": ("TGA", "RGB", {}),
}
UNCOMPRESSED = {"tiff", "bmp", "ppm", "tga"}
BLIND = 18  # zeros at the end that a coding without checksums may end in itself


@cache
def whole(kind: str) -> bytes:
    file = io.BytesIO()
    name, mode, options = KINDS[kind]
    scene(mode).save(file, name, **options)
    return file.getvalue()


def read(data: bytes, short_side: int | None = None) -> NDArray[np.uint8] | None:
    """Pixels; None if refused."""
    try:
        return np.asarray(decode(io.BytesIO(data), short_side))
    except UnreadableImage:
        return None


@cache
def expected(kind: str, short_side: int | None) -> NDArray[np.uint8]:
    pixels = read(whole(kind), short_side)
    assert pixels is not None
    return pixels


def check(kind: str, data: bytes, short_side: int | None, fast: bool) -> bool:
    """Whether it is read; fails if with other pixels than the whole file."""
    ssltool.data.decode_jpeg.simplejpeg = FAST if fast else None
    try:
        found = read(data, short_side)
    finally:
        ssltool.data.decode_jpeg.simplejpeg = FAST
    assert found is None or np.array_equal(found, expected(kind, short_side))
    return found is not None


sizes, readers = st.sampled_from([None, 12]), st.booleans()
lengths = st.one_of(st.floats(0, 1), st.floats(0.9, 1))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, derandomize=True, database=None)
@given(part=lengths, short_side=sizes, fast=readers)
def test_a_cut_file_is_whole_or_refused(
    kind: str, part: float, short_side: int | None, fast: bool
) -> None:
    data = whole(kind)
    check(kind, data[: int(part * len(data))], short_side, fast)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - UNCOMPRESSED))
@settings(max_examples=12, derandomize=True, database=None)
@given(part=lengths, short_side=sizes, fast=readers)
def test_a_file_filled_with_zeros_is_whole_or_refused(
    kind: str, part: float, short_side: int | None, fast: bool
) -> None:
    data = whole(kind)
    has_checksums = kind.startswith(("jpeg", "mpo", "png", "apng", "ico", "gif"))
    length = min(int(part * len(data)), len(data) - (0 if has_checksums else BLIND))
    check(kind, data[:length] + bytes(len(data) - length), short_side, fast)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("jpeg")])
@settings(max_examples=25, derandomize=True, database=None)
@given(part=lengths, short_side=sizes)
@example(part=0.5, short_side=None)
@example(part=0.99, short_side=12)
def test_a_cut_file_with_an_end_marker_is_whole_or_refused(
    kind: str, part: float, short_side: int | None
) -> None:
    data = whole(kind)[: int(part * len(whole(kind)))]
    ends = [b"\xff\xd9"]
    if part < 0.9:  # else there may be as many zeros as blocks are missing
        ends.append(bytes(len(whole(kind)) - len(data)) + b"\xff\xd9")
    for end in ends:
        assert check(kind, data + end, short_side, True) == check(
            kind, data + end, short_side, False
        )


@pytest.mark.parametrize("kind", ["jpeg", "jpeg restarts", "jpeg progressive", "jpeg cmyk"])
@pytest.mark.parametrize("padding", [b"\0", bytes(100), b"\xff" * 3, b"abc" * 9])
def test_padding_between_the_last_block_and_the_end_marker_is_ignored(
    kind: str, padding: bytes
) -> None:
    data = whole(kind)[:-2] + padding + b"\xff\xd9"
    assert check(kind, data, None, True)
    assert check(kind, data, None, False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fast", [True, False])
def test_what_follows_a_complete_image_does_not_matter(
    kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)
    movie = struct.pack(">I", 24) + b"ftypmp42" + bytes(500) + whole("jpeg")
    for more in (bytes(5000), b"some text\n" * 40, movie):
        if kind == "tga" or (kind == "jpeg 2000" and more is movie):
            continue  # the footer of TGA is found from the end; a movie has boxes as JPEG 2000
        found = read(whole(kind) + more)
        assert found is not None
        np.testing.assert_array_equal(found, expected(kind, None))


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "WEBP", "AVIF", "TIFF"])
def test_flat_images_are_complete(
    kind: str, mode: str, optimize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their coding has long runs of zeros."""
    monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)
    options: dict[str, Any] = {"optimize": optimize, "progressive": kind.endswith("progressive")}
    options |= {"TIFF": {"compression": "jpeg"}, "WEBP": {"quality": 5}}.get(kind, {})
    for shade in (0, 128, 255):
        for paste in (False, True):
            image = Image.new("RGB", (300, 200), (shade,) * 3)
            if paste:
                image.paste(scene(), (0, 0))
            if mode == "CMYK" and kind in ("WEBP", "AVIF"):
                continue
            file = io.BytesIO()
            image.convert(mode).save(file, kind.split()[0], **options)
            found = np.asarray(decode(file)).astype(int)
            assert np.abs(found[-1, -1] - shade).max() <= 4


def test_a_thumbnail_ends_before_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    block = exif.tobytes() + whole("jpeg")
    file = io.BytesIO()
    scene().save(file, "JPEG", exif=block)
    assert read(file.getvalue()) is not None
    data = file.getvalue()
    assert read(data[: len(data) * 3 // 4] + b"\xff\xd9") is None


def test_scans_that_are_missing_are_noticed_by_both_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = whole("jpeg progressive")
    scans = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    assert len(scans) > 4
    for _ in range(2):
        for scan in scans[1:]:
            table = data.rfind(b"\xff\xc4", 0, scan)  # the tables of a scan precede it
            cut = max(table, data.rfind(b"\xff\xda", 0, scan) + 12)
            with pytest.raises(UnreadableImage, match="truncated"):
                decode(io.BytesIO(data[:cut] + b"\xff\xd9"))
        monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)


def test_a_png_with_a_flipped_bit_in_its_pixels_is_refused() -> None:
    data = bytearray(whole("png"))
    data[data.index(b"IDAT") + 400] ^= 1
    assert read(bytes(data)) is None


def test_arithmetic_coding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = whole("jpeg").replace(b"\xff\xc0", b"\xff\xc9", 1)
    for _ in range(2):
        with pytest.raises(UnreadableImage):
            decode(io.BytesIO(data))
        monkeypatch.setattr("ssltool.data.decode_jpeg.simplejpeg", None)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg restarts", "jpeg progressive", "jpeg cmyk", "mpo"])
def test_other_data_behind_a_complete_image_is_not_decoded(kind: str) -> None:
    data = whole(kind)
    continued = jpeg.continued(data, jpeg.end_of_image(data))
    with Image.open(io.BytesIO(data)) as first, Image.open(io.BytesIO(continued)) as second:
        assert first.tobytes() == second.tobytes()
