"""Image sheets: what is on them, where, and that it can be read in print."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssltool.errors import UsageError
from ssltool.ops import patches
from ssltool.plotting.colors import GREEN, ORANGE, SKY
from ssltool.plotting.page import DPI, TEXT, WIDTH, Page, Picture, below, beside, cut_line
from ssltool.plotting.sheet import (
    Column,
    Key,
    Mark,
    Scale,
    Sheet,
    right_wrong,
    tile_boxes,
    tile_gap,
)
from ssltool.plotting.sheet_layout import fitted, save_contact, save_sheet, sheet_page, to_image
from ssltool.plotting.text import text_width, wrapped

RIGHT, WRONG = right_wrong("right", "wrong")


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def sheet(count: int = 2, side: int = 32, **columns: Column) -> Sheet:
    return Sheet(columns or {"image": Column(noise(count, side))}, "what is shown")


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def box(picture: Picture) -> tuple[float, float, float, float]:
    x, y, image = picture
    return x, y, x + image.width, y + image.height


def words(page: Page) -> str:
    return " ".join(line.text for line in page.lines)


@settings(max_examples=25)
@given(
    st.lists(st.integers(8, 300), min_size=1, max_size=7),
    st.integers(1, 4),
    st.text(max_size=60),
)
def test_every_text_is_readable_at_the_width_of_a_column(
    sides: list[int], count: int, name: str
) -> None:
    columns = {f"{name} {i}": Column(noise(count, side)) for i, side in enumerate(sides)}
    captions = [f"{name} caption " * 5] * count
    page = sheet_page(Sheet(columns, name * 3, captions, "note " * 40))
    assert page.width <= WIDTH
    points = 8.5 / 2.54 * 72 / page.width  # of a pixel, printed 8.5 cm wide
    assert all(line.size * points >= 5.9 for line in page.lines)
    for x, y, right, bottom in map(box, page.pictures):
        assert 0 <= x < right <= page.width
        assert 0 <= y < bottom <= page.height
    assert all(0 < line.y < page.height for line in page.lines)
    rows = len(page.pictures)
    assert rows == count * len(sides)
    assert not any(overlap(a, b) for a, b in combinations(map(box, page.pictures), 2))


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_no_line_of_text_leaves_the_page() -> None:
    page = sheet_page(
        Sheet(
            {"a heading of many words": Column(noise(1, 8)), "b" * 90: Column(noise(1, 8))},
            "a title of many words " * 6,
            ["caption/" * 40],
            "a note " * 40,
        )
    )
    for line in page.lines:
        assert line.x + text_width(line.text, line.size, bold=line.bold) <= page.width


@pytest.mark.parametrize(
    ("side", "height", "expected"),
    [(8, 320, 320), (48, 230, 192), (96, 230, 192), (160, 230, 160), (500, 230, 230)],
)
def test_small_images_are_enlarged_by_whole_factors(side: int, height: int, expected: int) -> None:
    image = to_image(noise(1, side)[0])
    drawn = fitted(image, height)
    assert drawn.size == (expected, expected)
    if side <= height:
        times = expected // side
        pixels = np.asarray(image).repeat(times, axis=0).repeat(times, axis=1)
        assert np.array_equal(np.asarray(drawn), pixels)


def test_images_are_on_the_sheet_pixel_for_pixel(tmp_path: Path) -> None:
    record = sheet(left=Column(noise(2, 40)), right=Column(noise(2, 64, 1)))
    page = sheet_page(record)
    drawn = read(save_sheet(record, tmp_path / "a.png"))
    assert drawn.shape[:2] == (page.height, page.width)
    for x, y, image in page.pictures:
        at = drawn[int(y) : int(y) + image.height, int(x) : int(x) + image.width]
        assert np.array_equal(at, np.asarray(image))


def test_the_legend_explains_every_frame_and_no_other() -> None:
    marks = [[Mark(RIGHT)], [Mark(WRONG), Mark(Key(SKY, "seen"), (0, 0, 0.5, 0.5))]]
    record = sheet(image=Column(noise(2, 32), marks))
    assert record.keys == (RIGHT, WRONG, Key(SKY, "seen"))
    page = sheet_page(record)
    first = min(picture.y for picture in page.pictures)
    legend = {shape.color for shape in page.shapes if shape.y + shape.height < first}
    assert legend == {shape.color for shape in page.shapes} == {GREEN, ORANGE, SKY}
    assert all(key.meaning in words(page) for key in record.keys)
    plain = sheet_page(sheet())
    assert plain.shapes == ()
    assert plain.height < page.height


def test_right_and_wrong_differ_in_more_than_color() -> None:
    assert (RIGHT.color, WRONG.color) == (GREEN, ORANGE)
    assert RIGHT.dashed != WRONG.dashed


def test_numbers_stand_in_the_boxes_they_belong_to() -> None:
    boxes = list(tile_boxes(9, 3, 10, 1))
    marks = [[Mark(None, place, str(i), centered=i % 2 == 0) for i, place in enumerate(boxes)]]
    page = sheet_page(sheet(tiles=Column(noise(1, 34), marks)))
    left, top, right, bottom = box(page.pictures[0])
    found = {line.text: line for line in page.lines if line.text.isdigit()}
    assert sorted(found) == [str(i) for i in range(9)]
    for text, line in found.items():
        column = (line.x - left) / (right - left) * 3
        row = (line.y - 0.3 * TEXT - top) / (bottom - top) * 3
        assert (int(row), int(column)) == divmod(int(text), 3)


def test_a_number_in_the_middle_stands_out_from_the_image() -> None:
    shades = torch.cat([torch.full((1, 3, 9, 9), v, dtype=torch.uint8) for v in (0, 255)])
    marks = [[Mark(None, text="7", centered=True)]] * 2
    page = sheet_page(sheet(image=Column(shades, marks)))
    assert [line.color for line in page.lines if line.text == "7"] == ["#ffffff", "#222222"]


def test_boxes_are_those_of_assembled_tiles() -> None:
    tiles = noise(1, 6).new_zeros(1, 8, 3, 6, 6) + torch.arange(8, dtype=torch.uint8).view(
        1, 8, 1, 1, 1
    )
    image = patches.assemble(tiles, 4, tile_gap(6), fill=99)[0, 0]
    for i, (left, top, width, height) in enumerate(tile_boxes(8, 4, 6, tile_gap(6))):
        y, x = round(top * image.shape[0]), round(left * image.shape[1])
        tile = image[y : y + round(height * image.shape[0]), x : x + round(width * image.shape[1])]
        assert tile.shape == (6, 6)
        assert (tile == i).all()


def test_empty_places_leave_the_others_where_they_are() -> None:
    image = noise(1, 32)[0]
    full = sheet_page(sheet(a=Column([image, image]), b=Column([image, image])))
    page = sheet_page(sheet(a=Column([image, image]), b=Column([None, image])))
    kept = [p[:2] for p in full.pictures]
    assert [p[:2] for p in page.pictures] == [kept[0], *kept[2:]]


def test_a_color_scale_has_both_ends_and_its_label() -> None:
    colors = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 3)
    record = sheet()._replace(scale=Scale("absolute error", "0", "40%", colors))
    page = sheet_page(record)
    bar = np.asarray(page.pictures[0].image)
    assert (bar[0, 0].mean(), bar[0, -1].mean()) == pytest.approx((0, 255), abs=3)
    assert all(part in words(page) for part in ("absolute error", "0", "40%"))


def test_long_class_names_are_cut_and_short_ones_kept() -> None:
    name = "Pneumonoultramicroscopicsilicovolcanoconiosis"
    page = sheet_page(
        Sheet({f"{i}": Column(noise(1, 8), (), [f"{name}\n0.97"]) for i in range(6)}, "t")
    )
    cut = [line.text for line in page.lines if line.text.startswith("Pneu")]
    assert len(cut) == 6
    assert all(text.endswith("…") for text in cut)
    assert sum(line.text == "0.97" for line in page.lines) == 6
    assert cut_line("cat", 100) == "cat"
    assert text_width(cut_line(name, 120), TEXT) <= 120


def test_user_text_is_drawn_as_it_is() -> None:
    page = sheet_page(Sheet({"$a_b$": Column(noise(1, 32), (), ["x\x1b[31m"])}, "[bold]"))
    assert "$a_b$" in words(page)
    assert "[bold]" in words(page)
    assert "\x1b" not in words(page)


def test_words_are_kept_when_lines_are_broken() -> None:
    text = "one two three averyverylongwordthatfitsnowhere four"
    lines = wrapped(text, lambda part: 10 * len(part), 100)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) <= 10 for line in lines)
    assert lines[0] == "one two"
    assert wrapped("", len, 80) == []


def test_pages_are_stacked_without_gaps_for_empty_ones() -> None:
    a, empty, b = Page(10, 5), Page(99, 0), Page(20, 7)
    assert below([a, empty, b], 3)[:2] == (20, 15)
    assert beside([a, b], 3, at_bottom=True)[:2] == (33, 7)


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".pdf", b"%PDF-"), (".svg", b"<?xml"), (".png", b"\x89PNG")]
)
def test_a_sheet_is_written_in_the_format_of_its_suffix(
    tmp_path: Path, suffix: str, magic: bytes
) -> None:
    record = sheet(1, image=Column(noise(1, 16), [[Mark(RIGHT)]]))
    first, second = (save_sheet(record, tmp_path / f"{n}{suffix}").read_bytes() for n in "ab")
    assert first.startswith(magic)
    assert first == second


def test_a_page_of_pdf_is_as_wide_as_in_print(tmp_path: Path) -> None:
    record = Sheet({str(i): Column(noise(1, 224)) for i in range(4)})
    data = save_sheet(record, tmp_path / "a.pdf").read_bytes()
    found = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", data)
    assert found
    page = sheet_page(record)
    assert float(found[1]) == pytest.approx(page.width * 72 / DPI, abs=0.1)
    assert float(found[1]) <= 8.5 / 2.54 * 72 + 0.1


def test_other_formats_are_refused_with_those_that_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"figures are written as \.png, \.svg or \.pdf"):
        save_sheet(sheet(), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_the_margin_is_light_and_opaque(tmp_path: Path) -> None:
    path = save_sheet(sheet(1), tmp_path / "a.png")
    drawn = read(path)
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (edge == 255).all()
    with Image.open(path) as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha == 255).all()


@pytest.mark.parametrize("count", [1, 64])
def test_one_image_and_many(count: int) -> None:
    page = sheet_page(Sheet({"": Column(noise(count, 8))}))
    assert len(page.pictures) == count
    assert page.width >= 600


def test_a_contact_sheet_shows_every_image_once(tmp_path: Path) -> None:
    shades = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    shades[:, 0] = 50 * torch.arange(5, dtype=torch.uint8)[:, None, None]
    drawn = read(save_contact(shades, tmp_path / "a.png", "five images", columns=2))
    counts = [int((drawn == (50 * i, 0, 0)).all(axis=2).sum()) for i in range(5)]
    assert len(set(counts)) == 1
    assert counts[0] >= 64


def test_to_image_keeps_channels_and_orientation() -> None:
    image = torch.zeros(3, 2, 3, dtype=torch.uint8)
    image[:, 1, 2] = torch.tensor([10, 20, 30], dtype=torch.uint8)
    drawn = to_image(image)
    assert drawn.size == (3, 2)
    assert drawn.getpixel((2, 1)) == (10, 20, 30)
