"""Pages: images, texts and outlines placed in pixels, stacked, and saved as PNG, SVG or PDF.

A page is drawn for a column of 8.5 cm: `WIDTH` pixels at `DPI`, where `TEXT` pixels are 6 pt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from PIL import Image

from ssltool.plotting.figures import save_figure
from ssltool.plotting.text import legible, text_width, wrapped

DPI = 300
WIDTH = 1004  # px, 8.5 cm
TEXT = 25  # px, 6 pt: the smallest text that is readable in print
INK, SOFT_INK, EDGE, PAPER = "#222222", "#555555", "#c8c8c8", "#ffffff"
_LINE_HEIGHT, _ASCENT = 1.28, 0.95  # of the text's size


class Picture(NamedTuple):
    """An image with its upper left corner."""

    x: float
    y: float
    image: Image.Image


class Line(NamedTuple):
    """A line of text: its start (or its middle, if centered) on the baseline.

    Attributes:
        x: Of the start or middle.
        y: Of the baseline.
        text: What is written.
        size: In pixels.
        color: ``#rrggbb``.
        bold: In the bold weight.
        centered: Whether ``x`` is the middle.
        ground: Color behind the text; none if empty.
    """

    x: float
    y: float
    text: str
    size: int = TEXT
    color: str = INK
    bold: bool = False
    centered: bool = False
    ground: str = ""


class Shape(NamedTuple):
    """An outline.

    Attributes:
        x: Left.
        y: Top.
        width: Of the box that it fills.
        height: Of the box that it fills.
        color: ``#rrggbb``.
        line: Width of the line in pixels, inside the box.
        round: An ellipse.
        dashed: A dashed line.
        cased: Edged in dark, to stand out from any image.
    """

    x: float
    y: float
    width: float
    height: float
    color: str
    line: float
    round: bool = False
    dashed: bool = False
    cased: bool = False


class Page(NamedTuple):
    """Parts placed in pixels from the upper left corner; parts may reach over its sides.

    Attributes:
        width: In pixels.
        height: In pixels.
        pictures: Images.
        lines: Texts.
        shapes: Outlines.
    """

    width: int
    height: int
    pictures: tuple[Picture, ...] = ()
    lines: tuple[Line, ...] = ()
    shapes: tuple[Shape, ...] = ()

    def moved(self, x: float, y: float) -> Self:
        """Its parts, shifted."""

        def shifted(parts: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(part._replace(x=part.x + x, y=part.y + y) for part in parts)

        return self._replace(
            pictures=shifted(self.pictures),
            lines=shifted(self.lines),
            shapes=shifted(self.shapes),
        )

    def padded(self, margin: int) -> Self:
        """The page with a margin on all sides."""
        moved = self.moved(margin, margin)
        return moved._replace(width=self.width + 2 * margin, height=self.height + 2 * margin)


def below(pages: Sequence[Page], gap: int) -> Page:
    """Pages below one another, aligned at the left; empty ones leave no gap."""
    placed, y = [], 0
    for page in [page for page in pages if page.height]:
        placed.append(page.moved(0, y))
        y += page.height + gap
    return _together(placed, max((p.width for p in placed), default=0), max(0, y - gap))


def beside(pages: Sequence[Page], gap: int, *, at_bottom: bool = False) -> Page:
    """Pages beside one another, aligned at the top or at the bottom."""
    height = max((page.height for page in pages), default=0)
    placed, x = [], 0
    for page in pages:
        placed.append(page.moved(x, height - page.height if at_bottom else 0))
        x += page.width + gap
    return _together(placed, max(0, x - gap), height)


def _together(pages: Sequence[Page], width: int, height: int) -> Page:
    return Page(
        width,
        height,
        tuple(part for page in pages for part in page.pictures),
        tuple(part for page in pages for part in page.lines),
        tuple(part for page in pages for part in page.shapes),
    )


def paragraph(
    text: str, width: int, *, size: int = TEXT, bold: bool = False, color: str = INK
) -> Page:
    """A text in lines of at most ``width`` pixels; of no height if it is empty."""
    lines = wrapped(legible(text), lambda part: text_width(part, size, bold=bold), width)
    step = line_height(size)
    placed = tuple(
        Line(0, i * step + round(_ASCENT * size), line, size, color, bold)
        for i, line in enumerate(lines)
    )
    return Page(width, len(lines) * step, lines=placed)


def line_height(size: int = TEXT) -> int:
    """Pixels from one line of text to the next."""
    return round(_LINE_HEIGHT * size)


def cut_line(text: str, width: int, size: int = TEXT) -> str:
    """A text, cut at its end with an ellipsis if it is wider than ``width`` pixels."""
    text = legible(text)
    if text_width(text, size) <= width:
        return text
    end = len(text)
    while end and text_width(text[:end].rstrip() + "…", size) > width:
        end -= 1
    return text[:end].rstrip() + "…"


def save_page(page: Page, path: Path) -> Path:
    """Save a page as PNG, SVG or PDF by its suffix; texts and outlines of the latter are vectors.

    Raises:
        UsageError: The suffix is none of these.
    """
    return save_figure(page_figure(page), path, dpi=DPI)


def page_figure(page: Page) -> Figure:
    """A page as a matplotlib figure; at `DPI` a pixel of the page is a pixel of the figure."""
    # A little more than the size, because matplotlib cuts the product with the resolution.
    figure = Figure(figsize=((page.width + 0.01) / DPI, (page.height + 0.01) / DPI), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(
        _canvas(page),
        extent=(0, page.width, page.height, 0),
        interpolation="none",
        aspect="auto",
    )
    for shape in page.shapes:
        axis.add_patch(_patch(shape))
    for line in page.lines:
        axis.text(line.x, line.y, line.text, **_text_style(line))
    axis.set_xlim(0, page.width)
    axis.set_ylim(page.height, 0)
    return figure


def _canvas(page: Page) -> NDArray[np.uint8]:
    """The images of a page on paper, with an edge around each, for white images."""
    canvas = Image.new("RGB", (page.width, page.height), PAPER)
    for x, y, image in page.pictures:
        left, top = round(x), round(y)
        edge = (left - 1, top - 1, left + image.width + 1, top + image.height + 1)
        canvas.paste(EDGE, edge)
        canvas.paste(image, (left, top))
    return np.asarray(canvas)


def _patch(shape: Shape) -> Patch:
    inset = shape.line / 2
    x, y = shape.x + inset, shape.y + inset
    width, height = shape.width - shape.line, shape.height - shape.line
    points = shape.line * 72 / DPI
    style: dict[str, Any] = {"fill": False, "edgecolor": shape.color, "linewidth": points}
    if shape.dashed:
        style["linestyle"] = (0, (2.2, 1.1))
    if shape.cased:
        casing = Stroke(linewidth=points + 2 * 72 / DPI, foreground=INK)
        style["path_effects"] = [casing, Normal()]
    if shape.round:
        return Ellipse((x + width / 2, y + height / 2), width, height, **style)
    return Rectangle((x, y), width, height, joinstyle="miter", **style)


def _text_style(line: Line) -> dict[str, Any]:
    style: dict[str, Any] = {
        "fontsize": line.size * 72 / DPI,
        "color": line.color,
        "fontweight": "bold" if line.bold else "normal",
        "ha": "center" if line.centered else "left",
        "va": "baseline",
    }
    if line.ground:
        style["bbox"] = {"facecolor": line.ground, "linewidth": 0, "pad": 0.6}
    return style
