"""Image sheets: one row per image, one titled column per kind, saved as PNG."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.plotting.text import Font, image_text

_CELL = 192  # px, about the side of a drawn image: 28 px images are enlarged to be seen
_GAP = 12
_TEXT = 14
_LINE = _TEXT + 6
_PAPER, _INK, _EDGE = (255, 255, 255), (34, 34, 34), (200, 200, 200)


def save_sheet(
    columns: Mapping[str, Tensor],
    path: Path,
    captions: Sequence[str] | None = None,
    title: str = "",
    width: int = 0,
) -> Path:
    """Draw a sheet of images and save it as PNG.

    The sheet is as wide as its images and captions; a longer title is wrapped.

    Args:
        columns: Title -> uint8 ``[B, 3, h, w]``; sizes may differ between columns.
        path: Where to save; missing folders are made.
        captions: One line per image, drawn under its row.
        title: Drawn on top.
        width: Rows stand side by side as far as they fit this many pixels; 0 for one below the
            other.

    Returns:
        ``path``.
    """
    images = {
        name: [_enlarged(to_image(image)) for image in stack] for name, stack in columns.items()
    }
    names = [image_text(name, _TEXT) for name in images]
    below = [image_text(caption, _TEXT) for caption in captions or ()]
    widths = [
        max(stack[0].width, _length(*name))
        for name, stack in zip(names, images.values(), strict=True)
    ]
    lines = [_length(*caption) + 2 * _GAP for caption in below]
    block = max([sum(widths) + _GAP * (len(widths) + 1), *lines])  # px, the width of a row
    rows = len(next(iter(images.values())))
    blocks = max(1, min(rows, (width + _GAP) // (block + _GAP)))  # side by side
    depth = -(-rows // blocks)  # rows below one another
    blocks = -(-rows // depth)
    whole = blocks * block + (blocks - 1) * _GAP
    title, title_font = image_text(title, _TEXT)
    heading = wrapped(title, title_font, whole - 2 * _GAP)
    top = _GAP + len(heading) * _LINE + (_GAP if heading else 0) + _LINE
    height = max(stack[0].height for stack in images.values())
    step = height + _GAP + (_LINE if captions else 0)
    canvas = Image.new("RGB", (whole, top + depth * step), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(heading):
        draw.text((_GAP, _GAP + i * _LINE), line, _INK, title_font)
    for block_index in range(blocks):
        x = block_index * (block + _GAP) + _GAP
        for (name, font), column in zip(names, widths, strict=True):
            draw.text((x, top - _LINE), name, _INK, font)
            x += column + _GAP
    for row in range(rows):
        left, y = (row // depth) * (block + _GAP) + _GAP, top + (row % depth) * step
        _draw_row(canvas, [stack[row] for stack in images.values()], widths, (left, y))
        if below:
            caption, font = below[row]
            draw.text((left, y + height + 4), caption, _INK, font)
    return save_image(canvas, path)


def _draw_row(
    canvas: Image.Image, images: Sequence[Image.Image], widths: Sequence[int], at: tuple[int, int]
) -> None:
    """Paste images side by side in columns, with an edge around each, for white images."""
    draw, (x, y) = ImageDraw.Draw(canvas), at
    for image, column in zip(images, widths, strict=True):
        draw.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=_EDGE)
        canvas.paste(image, (x, y))
        x += column + _GAP


def save_contact(images: Tensor, path: Path, columns: int = 8, side: int = 128) -> Path:
    """Draw images uint8 ``[N, 3, h, w]`` in a dense grid, each about ``side`` px wide, and save it
    as PNG.
    """
    drawn = [_enlarged(to_image(image), side) for image in images]
    columns = min(columns, len(drawn))
    width, height = (length + _GAP // 2 for length in drawn[0].size)
    canvas = Image.new(
        "RGB", (columns * width + _GAP // 2, -(-len(drawn) // columns) * height + _GAP // 2), _PAPER
    )
    for i, image in enumerate(drawn):
        canvas.paste(image, (_GAP // 2 + i % columns * width, _GAP // 2 + i // columns * height))
    return save_image(canvas, path)


def to_image(image: Tensor) -> Image.Image:
    """One uint8 ``[3, h, w]`` image as a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def save_image(image: Image.Image, path: Path) -> Path:
    """Save an image as PNG, atomically."""
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Wrap a text into lines of at most ``width`` pixels, between words where that is possible."""
    lines: list[str] = []
    for word in chain.from_iterable(_pieces(whole, font, width) for whole in text.split()):
        if lines and _length(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _pieces(word: str, font: Font, width: int) -> Iterator[str]:
    """A word in pieces of at most ``width`` pixels, such as a long path."""
    while len(word) > 1 and _length(word, font) > width:
        fitting = bisect_right(range(len(word)), width, key=lambda end: _length(word[:end], font))
        yield word[: max(1, fitting - 1)]
        word = word[max(1, fitting - 1) :]
    yield word


def _length(text: str, font: Font) -> int:
    """Width of a line of text in pixels."""
    return round(font.getlength(text))


def _enlarged(image: Image.Image, side: int = _CELL) -> Image.Image:
    """Enlarge a small image by a whole factor, so that its pixels stay sharp."""
    times = max(1, round(side / max(image.size)))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
