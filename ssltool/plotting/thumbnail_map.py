"""PNG map of images at points of a plane, framed in the colors of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.plotting.sheet_layout import to_image
from ssltool.plotting.text import Font, image_text, wrapped

_SIDE = 1200  # px of the map
_MARGIN = 16
_TEXT = 14
_LINE = _TEXT + 8
_DOT = 3
_FRAME = 3
_PAPER, _INK, _PLAIN = (255, 255, 255), (34, 34, 34), (150, 150, 150)

Color = tuple[int, int, int]


def save_map(
    points: NDArray[np.float64],
    images: Tensor,
    path: Path,
    *,
    labels: Sequence[int] = (),
    classes: Sequence[str] = (),
    title: str = "",
    thumbnail: int = 44,
) -> Path:
    """Draw a dot for each point and, where there is room, its image.

    Images are placed in a shuffled order, so that no class comes first; one that would cover more
    than a third of another's width stays a dot.

    Args:
        points: ``[N, 2]`` on any scale; the axes are stretched alike.
        images: uint8 ``[N, 3, h, w]``.
        path: Where to save; missing folders are made.
        labels: Class of each point, ``[N]``; empty without classes.
        classes: Names of the classes, listed below the map.
        title: Drawn on top.
        thumbnail: Side of a drawn image in pixels.

    Returns:
        ``path``.
    """
    title, font = image_text(title, _TEXT)
    heading = wrapped(title, font.getlength, _SIDE - 2 * _MARGIN)
    names = [image_text(name, _TEXT) for name in classes]
    legend = _legend(names)
    top = _MARGIN + len(heading) * _LINE
    foot = top + _SIDE
    canvas = Image.new(
        "RGB", (_SIDE, foot + (len(legend) * _LINE + _MARGIN if legend else 0)), _PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(heading):
        draw.text((_MARGIN, _MARGIN + i * _LINE), line, _INK, font)
    positions = _spread(points, thumbnail) + np.array([0, top])
    colors = (
        [class_color(label, len(classes)) for label in labels]
        if len(labels)
        else [_PLAIN] * len(points)
    )
    for (x, y), color in zip(positions, colors, strict=True):
        draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color)
    drawn: list[NDArray[np.float64]] = []
    for i in np.random.Generator(np.random.PCG64(0)).permutation(len(positions)):
        if all(np.abs(positions[i] - other).max() >= thumbnail * 2 / 3 for other in drawn):
            drawn.append(positions[i])
            _paste(canvas, draw, images[i], positions[i], colors[i], thumbnail)
    for row, entries in enumerate(legend):
        for x, index in entries:
            y = foot + row * _LINE
            draw.rectangle(
                (x, y + 2, x + _TEXT, y + 2 + _TEXT), fill=class_color(index, len(classes))
            )
            name, font = names[index]
            draw.text((x + _TEXT + 6, y), name, _INK, font)
    with atomic_file(path) as temporary:
        canvas.save(temporary, format="PNG")
    return path


def class_color(index: int, classes: int) -> Color:
    """Color of a class; distinct for up to twenty classes."""
    names = "tab10" if classes <= 10 else "tab20" if classes <= 20 else "hsv"
    position = index % classes if classes <= 20 else index / classes
    red, green, blue, _ = (round(255 * part) for part in colormaps[names](position))
    return red, green, blue


def _spread(points: NDArray[np.float64], thumbnail: int) -> NDArray[np.float64]:
    """Scale points to the map with the axes alike, centered, with room for the outermost images."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = _SIDE - 2 * _MARGIN - thumbnail
    scale = room / max(float((high - low).max()), 1e-9)
    scaled: NDArray[np.float64] = (points - (low + high) / 2) * scale + _SIDE / 2
    return scaled


def _paste(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Tensor,
    position: NDArray[np.float64],
    color: Color,
    side: int,
) -> None:
    """Draw an image around its position with a frame in its color."""
    left, top = (round(float(part) - side / 2) for part in position)
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=color)
    inner = side - 2 * _FRAME
    canvas.paste(
        to_image(image).resize((inner, inner), Image.Resampling.BILINEAR),
        (left + _FRAME, top + _FRAME),
    )


def _legend(classes: Sequence[tuple[str, Font]]) -> list[list[tuple[int, int]]]:
    """Rows of (x in px, index of the class)."""
    rows: list[list[tuple[int, int]]] = []
    x = _SIDE
    for index, (name, font) in enumerate(classes):
        width = _TEXT + 6 + round(font.getlength(name)) + 2 * _MARGIN
        if x + width > _SIDE:
            rows.append([])
            x = _MARGIN
        rows[-1].append((x, index))
        x += width
    return rows
