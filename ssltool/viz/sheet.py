"""Tensors -> a PNG sheet: one row per picture, one titled column per kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssltool.atomic import atomic_file

_CELL = 176  # px, least side of a cell: 28 px pictures are enlarged to be seen
_GAP = 12
_TEXT = 14
_PAPER, _INK = (255, 255, 255), (34, 34, 34)


def save_sheet(
    columns: Mapping[str, Tensor], path: Path, captions: Sequence[str] | None = None, title: str = ""
) -> Path:
    """Draw a sheet and save it as PNG.

    Args:
        columns: Title -> uint8 ``[B, 3, h, w]``; sizes may differ between columns.
        path: Where to save; missing folders are made.
        captions: One line per picture, drawn under its row.
        title: Drawn on top.

    Returns:
        ``path``.
    """
    pictures = {name: [_enlarged(to_image(picture)) for picture in stack] for name, stack in columns.items()}
    font = ImageFont.load_default(_TEXT)
    widths = [max(row[0].width, round(font.getlength(name))) for name, row in pictures.items()]
    height = max(row[0].height for row in pictures.values())
    rows = len(next(iter(pictures.values())))
    step = height + _GAP + (_TEXT + 8 if captions else 0)
    top = 2 * _GAP + _TEXT + (_TEXT + _GAP if title else 0)
    canvas = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), top + rows * step), _PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_GAP, _GAP), title, _INK, font)
    x = _GAP
    for (name, stack), width in zip(pictures.items(), widths, strict=True):
        draw.text((x, top - _TEXT - _GAP // 2), name, _INK, font)
        for row, picture in enumerate(stack):
            canvas.paste(picture, (x, top + _GAP // 2 + row * step))
        x += width + _GAP
    for row, caption in enumerate(captions or ()):
        draw.text((_GAP, top + _GAP // 2 + row * step + height + 4), caption, _INK, font)
    return save_image(canvas, path)


def to_image(picture: Tensor) -> Image.Image:
    """One uint8 ``[3, h, w]`` picture as a PIL image."""
    return Image.fromarray(picture.permute(1, 2, 0).cpu().contiguous().numpy())


def save_image(image: Image.Image, path: Path) -> Path:
    """Save a picture as PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def _enlarged(image: Image.Image) -> Image.Image:
    """Repeat pixels of a small picture a whole number of times, so that they stay sharp."""
    times = max(1, _CELL // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
