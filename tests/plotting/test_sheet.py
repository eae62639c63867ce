from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFont
from torch import Tensor

from ssltool.plotting.sheet import save_contact, save_sheet, to_image, wrapped

INK = (34, 34, 34)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def rows_with_ink(sheet: NDArray[np.uint8]) -> set[int]:
    return set(np.flatnonzero((sheet == INK).all(axis=2).any(axis=1)).tolist())


def find(sheet: NDArray[np.uint8], image: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Every place where the image stands in the sheet, pixel for pixel."""
    height, width = image.shape[:2]
    starts = np.argwhere((sheet == image[0, 0]).all(axis=2)).tolist()
    return [
        (y, x) for y, x in starts if np.array_equal(sheet[y : y + height, x : x + width], image)
    ]


@pytest.mark.parametrize(("side", "times"), [(28, 7), (64, 3), (96, 2), (160, 1), (300, 1)])
def test_small_images_are_enlarged_by_whole_factors(tmp_path: Path, side: int, times: int) -> None:
    images = noise(2, side)
    sheet = read(save_sheet({"image": images}, tmp_path / "sheet.png"))
    for image in images:
        pixels = image.permute(1, 2, 0).numpy()
        assert len(find(sheet, pixels.repeat(times, axis=0).repeat(times, axis=1))) == 1


def test_columns_keep_their_order_and_rows_are_level(tmp_path: Path) -> None:
    columns = {"left": noise(3, 200, 1), "right": noise(3, 160, 2)}
    sheet = read(save_sheet(columns, tmp_path / "sheet.png"))
    places = {
        name: [find(sheet, p.permute(1, 2, 0).numpy())[0] for p in stack]
        for name, stack in columns.items()
    }
    tops = [y for y, _ in places["left"]]
    assert tops == [y for y, _ in places["right"]]
    assert tops == sorted(tops)
    assert min(b - a for a, b in pairwise(tops)) >= 200
    assert max(x for _, x in places["left"]) + 200 < min(x for _, x in places["right"])


def test_titles_and_captions_stand_clear_of_the_images(tmp_path: Path) -> None:
    images = noise(2, 192)
    sheet = read(
        save_sheet(
            {"a column": images},
            tmp_path / "s.png",
            captions=["gyp", "7 of 9"],
            title="what it is",
        )
    )
    ink = rows_with_ink(sheet)
    tops = [find(sheet, p.permute(1, 2, 0).numpy())[0][0] for p in images]
    assert any(y < tops[0] - 20 for y in ink)  # the title
    assert any(tops[0] - 20 <= y < tops[0] for y in ink)  # the column's
    assert any(tops[0] + 192 <= y < tops[1] for y in ink)  # the first caption, between the rows
    assert any(y >= tops[1] + 192 for y in ink)  # the second, below
    assert len(sheet) - 1 not in ink  # and nothing is cut off


def test_without_title_and_captions_there_is_no_room_for_them(tmp_path: Path) -> None:
    images = noise(2, 192)
    plain = read(save_sheet({"a": images}, tmp_path / "plain.png"))
    full = read(
        save_sheet({"a": images}, tmp_path / "full.png", captions=["x", "y"], title="title")
    )
    assert len(plain) < len(full)
    assert plain.shape[1] == full.shape[1]


def test_long_titles_are_broken_and_long_captions_widen_the_sheet(tmp_path: Path) -> None:
    images, text = noise(1, 192), "a rather long line of words " * 5
    narrow = read(save_sheet({"a": images}, tmp_path / "narrow.png"))
    titled = read(save_sheet({"a": images}, tmp_path / "titled.png", title=text))
    captioned = read(save_sheet({"a": images}, tmp_path / "captioned.png", captions=[text]))
    assert titled.shape[1] == narrow.shape[1]
    assert len(titled) > len(narrow) + 60
    font = ImageFont.load_default(14)
    assert captioned.shape[1] >= font.getlength(text)
    for sheet in (titled, captioned):  # the margin stays white
        assert (sheet[:, -8:] == 255).all()


def test_words_are_kept_when_lines_are_broken() -> None:
    font = ImageFont.load_default(14)
    text = "one two three averyverylongwordthatfitsnowhere four"
    lines = wrapped(text, font, 80)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 80 for line in lines)
    assert lines[0] == "one two"
    assert len(lines) < 8  # words are broken where they must be, not into letters
    assert wrapped("", font, 80) == []


def test_a_white_image_can_be_seen(tmp_path: Path) -> None:
    white = torch.full((1, 3, 192, 192), 255, dtype=torch.uint8)
    sheet = read(save_sheet({"": white}, tmp_path / "sheet.png"))
    assert ((sheet == 200).all(axis=2)).sum() == 4 * 193  # an outline one pixel outside


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    columns = {"one": noise(2, 28), "two": noise(2, 50)}
    paths = [
        save_sheet(columns, tmp_path / name / "sheet.png", ["a", "b"], "title")
        for name in ("x", "y")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [p.name for p in paths[0].parent.iterdir()] == ["sheet.png"]  # no temporary file is left


def test_to_image_keeps_channels_and_orientation() -> None:
    image = torch.zeros(3, 2, 3, dtype=torch.uint8)
    image[:, 1, 2] = torch.tensor([10, 20, 30], dtype=torch.uint8)
    image = to_image(image)
    assert image.size == (3, 2)
    assert image.getpixel((2, 1)) == (10, 20, 30)


def test_rows_stand_side_by_side_as_far_as_they_fit(tmp_path: Path) -> None:
    columns = {"a": shades(5), "b": shades(5)}
    sizes = {}
    for width in (0, 900, 5000):
        with Image.open(
            save_sheet(columns, tmp_path / f"{width}.png", ["x"] * 5, width=width)
        ) as image:
            sizes[width] = image.size
            found = {
                pixel[0] for _, pixel in image.getcolors(1 << 20) or []
            }  # every row is drawn in full
            assert set(range(0, 250, 50)) <= found
    assert sizes[0][0] < sizes[900][0] <= 900 < sizes[5000][0]
    assert sizes[0][1] > sizes[900][1] > sizes[5000][1]


def test_a_contact_sheet_shows_every_image_once(tmp_path: Path) -> None:
    with Image.open(save_contact(shades(5), tmp_path / "a.png", columns=2, side=16)) as image:
        counts = {pixel[0]: count for count, pixel in image.getcolors(1 << 20) or []}
    assert [counts[shade] for shade in range(0, 250, 50)] == [256] * 5


def shades(count: int) -> torch.Tensor:
    """Plain 8 px images of red 0, 50, 100 ..."""
    stack = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    stack[:, 0] = 50 * torch.arange(count, dtype=torch.uint8)[:, None, None]
    return stack
