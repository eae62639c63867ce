"""Figure of images in rows and columns, with a color bar where they show values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ssltool.plotting.channels import as_rgb
from ssltool.plotting.style import COLUMN, LINE, POINT, SMALL, TEXT, new_figure, styled
from ssltool.plotting.text import legible, wrap

_GAP = 3.0  # points between images
_EDGE = "#999999"


@styled
def image_grid(
    columns: Mapping[str, NDArray[np.uint8]],
    title: str,
    *,
    notes: Sequence[str] = (),
    colors: Colormap | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    color_label: str = "",
) -> Figure:
    r"""Draw images in columns, one row per image.

    Args:
        columns: Heading -> uint8 ``[R, H, W, 3]``; sides may differ between the columns. Lines of
            a heading are separated by ``\n``.
        title: Drawn on top.
        notes: Lines below the images.
        colors: Draw a color bar of this map.
        limits: Values at its ends.
        color_label: Its label, with the unit.
    """
    rows = len(next(iter(columns.values())))
    tile = (COLUMN / POINT - _GAP) / max(len(columns), 3) - _GAP  # points
    room = tile + _GAP
    headings = ["\n".join(_lines(name, room)) for name in columns]
    head = (max(text.count("\n") for text in headings) + 1) * LINE * SMALL + 3
    below = [line for note in notes for line in wrap(legible(note), SMALL, COLUMN / POINT - 4)]
    foot = len(below) * LINE * SMALL + (4 if below else 0)
    bar = 3.2 * LINE * TEXT if colors is not None else 0.0
    images = rows * room
    height = head + images + foot + bar
    drawn = new_figure(title, height * POINT)
    drawn.set_layout_engine("none")
    whole, wide = drawn.get_figheight() / POINT, COLUMN / POINT
    left = (wide - len(columns) * room + _GAP) / 2
    if drawn._suptitle is not None:  # type: ignore[attr-defined]
        drawn._suptitle.set_y(1 - 2 / whole)  # type: ignore[attr-defined]
    for x, (heading, stack) in enumerate(zip(headings, columns.values(), strict=True)):
        for y, image in enumerate(stack):
            bottom = bar + foot + images - (y + 1) * room + _GAP
            box = ((left + x * room) / wide, bottom / whole, tile / wide, tile / whole)
            axis = drawn.add_axes(box, xticks=[], yticks=[])
            axis.imshow(image, interpolation="nearest" if len(image) <= tile * 2 else "antialiased")
            axis.spines[:].set(visible=True, color=_EDGE, linewidth=0.4)
        at = ((left + x * room + tile / 2) / wide, (bar + foot + images + 2) / whole)
        drawn.text(*at, heading, ha="center", va="bottom", fontsize=SMALL, linespacing=1.05)
    if below:
        at = (_GAP / wide, (bar + foot - 1) / whole)
        drawn.text(*at, "\n".join(below), va="top", fontsize=SMALL, linespacing=1.1)
    if colors is not None:
        box = (0.2, (bar - 7) / whole, 0.6, 5 / whole)
        mapped = ScalarMappable(Normalize(*limits), colors)
        scale = drawn.colorbar(mapped, cax=drawn.add_axes(box), orientation="horizontal")
        scale.outline.set_visible(False)
        scale.set_label(legible(color_label))
    return drawn


def as_rows(images: Tensor) -> NDArray[np.uint8]:
    """Images uint8 ``[R, 3, H, W]``, or of other channels, as a column of `image_grid`."""
    rows: NDArray[np.uint8] = as_rgb(images).permute(0, 2, 3, 1).cpu().contiguous().numpy()
    return rows


def _lines(name: str, width: float) -> list[str]:
    return [line for part in name.split("\n") for line in wrap(legible(part), SMALL, width)]
