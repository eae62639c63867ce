"""Image sheets: a row per image, a column per kind, marks over images and a legend of the marks.

A sheet is a record; `ssltool.plotting.sheet_layout` places its parts on a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ssltool.plotting.colors import GREEN, ORANGE

WHOLE = (0.0, 0.0, 1.0, 1.0)

# Left, top, width and height, in fractions of the image's sides.
Box = tuple[float, float, float, float]


class Key(NamedTuple):
    """An outline with its meaning; the legend of a sheet has an entry for each key drawn.

    Attributes:
        color: ``#rrggbb``.
        meaning: Written in the legend.
        round: An ellipse instead of a rectangle.
        dashed: A dashed line.
    """

    color: str
    meaning: str
    round: bool = False
    dashed: bool = False


class Mark(NamedTuple):
    """An outline, a text or both over an image.

    Attributes:
        key: How the outline is drawn; None for a text alone.
        box: Where; an outline of the whole image is drawn around it.
        text: A number or a word in the upper left corner of the box.
        centered: The text stands in the middle of the box instead.
    """

    key: Key | None
    box: Box = WHOLE
    text: str = ""
    centered: bool = False


class Scale(NamedTuple):
    """A color scale, drawn in the legend.

    Attributes:
        label: What the colors show, with the unit.
        low: Written at its first color.
        high: Written at its last color.
        colors: uint8 ``[n, 3]``, from low to high.
    """

    label: str
    low: str
    high: str
    colors: Tensor


class Column(NamedTuple):
    """Images of one kind, below one another.

    Attributes:
        images: uint8 ``[3, h, w]`` each, or a tensor ``[B, 3, h, w]``; None leaves a place empty.
        marks: Marks over each image.
        labels: Lines below each image; what is too long for its width is cut.
    """

    images: Tensor | Sequence[Tensor | None]
    marks: Sequence[Sequence[Mark]] = ()
    labels: Sequence[str] = ()


class Sheet(NamedTuple):
    """Images of several kinds beside one another.

    Attributes:
        columns: Heading -> images; as many in each column. An empty heading is left out, further
            ones that differ in spaces alone are drawn alike.
        title: What is shown.
        captions: A line below each row.
        note: Below the title: counts, rates and chance levels.
        scale: Of the colors of a column.
    """

    columns: Mapping[str, Column]
    title: str = ""
    captions: Sequence[str] = ()
    note: str = ""
    scale: Scale | None = None

    @property
    def rows(self) -> int:
        """Number of images in each column."""
        return len(next(iter(self.columns.values())).images)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys drawn, each once, in the order of the columns."""
        marks = (
            mark for column in self.columns.values() for image in column.marks for mark in image
        )
        return tuple(dict.fromkeys(mark.key for mark in marks if mark.key is not None))


def right_wrong(right: str, wrong: str) -> tuple[Key, Key]:
    """The keys of right and wrong predictions, with what they mean in a figure."""
    return Key(GREEN, right), Key(ORANGE, wrong, dashed=True)


def tile_gap(side: int) -> int:
    """Pixels between tiles of a side: few before small ones are enlarged."""
    return max(1, side // 24)


def tile_boxes(count: int, columns: int, side: int, gap: int = 0) -> Iterator[Box]:
    """Boxes of the tiles of an image laid out by `ssltool.ops.patches.assemble`.

    Args:
        count: Number of tiles.
        columns: Tiles in a row.
        side: Of a tile in pixels.
        gap: Pixels between tiles and at the border.
    """
    step = side + gap
    width, height = columns * step + gap, -(-count // columns) * step + gap
    for i in range(count):
        y, x = divmod(i, columns)
        left, top = (x * step + gap) / width, (y * step + gap) / height
        yield left, top, side / width, side / height
