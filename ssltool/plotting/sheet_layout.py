"""Place the parts of an image sheet on a page that is readable when printed 8.5 cm wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ssltool.plotting.channels import as_rgb
from ssltool.plotting.page import (
    INK,
    PAPER,
    SOFT_INK,
    TEXT,
    WIDTH,
    Line,
    Page,
    Picture,
    Shape,
    below,
    beside,
    cut_line,
    line_height,
    paragraph,
    save_page,
)
from ssltool.plotting.sheet import WHOLE, Column, Key, Mark, Scale, Sheet
from ssltool.plotting.text import legible, text_width

_MARGIN, _GAP = 18, 16
_LARGEST = 320  # px, side of a drawn image
_NARROWEST = 600  # px of texts on a sheet of few or small images
_TITLE = 29
_LINE = 5  # px of an outline
_BAR = 150  # px of a color scale


def save_sheet(sheet: Sheet, path: Path) -> Path:
    """Draw a sheet and save it as PNG, SVG or PDF by its suffix.

    Raises:
        UsageError: The suffix is none of these.
    """
    return save_page(sheet_page(sheet), path)


def save_contact(images: Tensor, path: Path, title: str, columns: int = 8) -> Path:
    """Draw images uint8 ``[N, 3, h, w]`` in a grid of ``columns`` and save it; see `save_sheet`."""
    rows = -(-len(images) // columns)
    stacks: list[list[Tensor | None]] = [
        [images[i] if i < len(images) else None for i in range(c, rows * columns, columns)]
        for c in range(min(columns, len(images)))
    ]
    return save_sheet(Sheet({" " * c: Column(s) for c, s in enumerate(stacks)}, title), path)


def sheet_page(sheet: Sheet, width: int = WIDTH, margin: int = _MARGIN) -> Page:
    """The page of a sheet: title, note, legend, headings, and a row of images for each image.

    All images are about equally high. Small ones are enlarged by whole factors, so that their
    pixels stay sharp. The page is narrower than ``width`` where they do not fill it, and texts are
    wrapped: their size does not depend on the images.

    Args:
        sheet: The record.
        width: Largest width in pixels.
        margin: Paper on all sides in pixels.
    """
    room = width - 2 * margin
    columns = _scaled(sheet.columns.values(), room)
    names = [legible(name.strip()) for name in sheet.columns]
    widths = _widths(names, columns, room)
    body = max(sum(widths) + _GAP * (len(widths) - 1), min(_NARROWEST, room))
    head = [
        paragraph(sheet.title, body, size=_TITLE, bold=True),
        paragraph(sheet.note, body, color=SOFT_INK),
        _legend(sheet.keys, sheet.scale, body),
    ]
    headings = [paragraph(name, w) for name, w in zip(names, widths, strict=True)]
    rows = [
        below(
            [
                beside([_cell(c, i, w) for c, w in zip(columns, widths, strict=True)], _GAP),
                paragraph(sheet.captions[i] if sheet.captions else "", body, color=SOFT_INK),
            ],
            6,
        )
        for i in range(sheet.rows)
    ]
    first = below([beside(headings, _GAP, at_bottom=True), rows[0]], 6)
    page = below([below(head, 8), first, *rows[1:]], _GAP)
    return page._replace(width=body).padded(margin)


class _Drawn(NamedTuple):
    """A column with its images at the size they are drawn at."""

    images: list[Image.Image | None]
    marks: Sequence[Sequence[Mark]]
    labels: Sequence[str]

    @property
    def width(self) -> int:
        """Of its widest image."""
        return max((image.width for image in self.images if image), default=0)


def to_image(image: Tensor) -> Image.Image:
    """One uint8 image ``[3, h, w]``, or of other channels, as a PIL image; see `as_rgb`."""
    return Image.fromarray(as_rgb(image).permute(1, 2, 0).cpu().contiguous().numpy())


def _scaled(columns: Iterable[Column], room: int) -> list[_Drawn]:
    """Columns whose images are about equally high and together as wide as the room."""
    columns = list(columns)
    stacks = [[None if x is None else to_image(x) for x in column.images] for column in columns]
    aspects = [max((i.width / i.height for i in stack if i), default=0.0) for stack in stacks]
    free = room - _GAP * (len(stacks) - 1)
    height = max(1, min(_LARGEST, int(free / max(sum(aspects), 0.1))))
    return [
        _Drawn([image and fitted(image, height) for image in stack], column.marks, column.labels)
        for column, stack in zip(columns, stacks, strict=True)
    ]


def fitted(image: Image.Image, height: int) -> Image.Image:
    """An image at most about ``height`` px high: enlarged by a whole factor, or shrunk."""
    times = height // image.height
    if times >= 1:
        size = (image.width * times, image.height * times)
        return image.resize(size, Image.Resampling.NEAREST)
    size = (max(1, round(image.width * height / image.height)), height)
    return image.resize(size, Image.Resampling.LANCZOS)


def _widths(names: Sequence[str], columns: Sequence[_Drawn], room: int) -> list[int]:
    """Width of each column: of its images, or of the longest word above them if there is room."""
    images = [column.width for column in columns]
    words = [
        max((round(text_width(word, TEXT)) + 1 for word in name.split()), default=0)
        for name in names
    ]
    wanted = [max(pair) for pair in zip(images, words, strict=True)]
    return wanted if sum(wanted) + _GAP * (len(wanted) - 1) <= room else images


def _cell(column: _Drawn, row: int, width: int) -> Page:
    """An image with its marks, and its label below."""
    image = column.images[row]
    label = column.labels[row] if column.labels else ""
    lines = below([paragraph(cut_line(line, width), 2 * width) for line in label.splitlines()], 0)
    marks = column.marks[row] if column.marks else ()
    shown = Page(width, 0) if image is None else _marked(image, marks)._replace(width=width)
    return below([shown, lines], 4)._replace(width=width)


def _marked(image: Image.Image, marks: Sequence[Mark]) -> Page:
    """An image with its marks."""
    shapes = tuple(shape for mark in marks for shape in _outline(mark, image))
    lines = tuple(line for mark in marks if mark.text for line in [_number(mark, image)])
    return Page(image.width, image.height, (Picture(0, 0, image),), lines, shapes)


def _outline(mark: Mark, image: Image.Image) -> Iterator[Shape]:
    """The outline of a mark: inside its box, or around the image if that is the whole one."""
    if mark.key is None:
        return
    x, y, width, height = _pixels(mark, image)
    line = max(2, min(_LINE, round(min(width, height) / 12)))
    whole = mark.box == WHOLE
    out = line + 1 if whole else 0
    yield Shape(
        x - out,
        y - out,
        width + 2 * out,
        height + 2 * out,
        mark.key.color,
        line,
        mark.key.round,
        mark.key.dashed,
        cased=not whole,
    )


def _number(mark: Mark, image: Image.Image) -> Line:
    """The text of a mark: on a dark ground in its corner, or bare in its middle."""
    x, y, width, height = _pixels(mark, image)
    if not mark.centered:
        inset = _LINE + 4
        return Line(x + inset, y + inset + 0.78 * TEXT, mark.text, color=PAPER, ground=INK)
    middle = (x + width / 2, y + height / 2 + 0.37 * TEXT)
    gray = np.asarray(image.convert("L"))[round(y) : round(y + height), round(x) : round(x + width)]
    return Line(*middle, mark.text, color=INK if gray.mean() > 128 else PAPER, centered=True)


def _pixels(mark: Mark, image: Image.Image) -> tuple[float, float, float, float]:
    left, top, width, height = mark.box
    return left * image.width, top * image.height, width * image.width, height * image.height


def _legend(keys: Sequence[Key], scale: Scale | None, width: int) -> Page:
    """An entry for each key and the color scale, side by side as far as they fit."""
    entries = [_entry(_sample(key), key.meaning, width) for key in keys]
    if scale is not None:
        entries.append(_scale(scale, width))
    lines: list[list[Page]] = []
    for entry in entries:
        if lines and sum(e.width + 2 * _GAP for e in lines[-1]) + entry.width <= width:
            lines[-1].append(entry)
        else:
            lines.append([entry])
    return below([beside(line, 2 * _GAP) for line in lines], 4)


def _entry(symbol: Page, text: str, width: int) -> Page:
    words = _tight(text, width - symbol.width - 10)
    return beside([symbol, words], 10)


def _tight(text: str, width: int) -> Page:
    """A paragraph that is no wider than its longest line."""
    page = paragraph(text, width)
    longest = max((text_width(line.text, TEXT) for line in page.lines), default=0.0)
    return page._replace(width=round(longest) + 1)


def _sample(key: Key) -> Page:
    """A small outline as it is drawn over images."""
    side = 26
    top = (line_height() - side) / 2 + 1
    shape = Shape(0, top, side, side, key.color, _LINE, key.round, key.dashed)
    return Page(side, line_height(), shapes=(shape,))


def _scale(scale: Scale, width: int) -> Page:
    """A color bar between its ends, after its label."""
    height = 22
    bar = Image.fromarray(scale.colors.cpu().numpy()[None]).resize(
        (_BAR, height), Image.Resampling.BILINEAR
    )
    top = (line_height() - height) // 2 + 1
    drawn = Page(_BAR, line_height(), (Picture(0, top, bar),))
    parts = [_tight(f"{scale.label}:", width), _tight(scale.low, width), drawn]
    return beside([*parts, _tight(scale.high, width)], 10)
