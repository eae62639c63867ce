"""Map of images at points of a plane: all of them as points, some as thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from torch import Tensor

from ssltool.plotting.channels import as_rgb
from ssltool.plotting.colors import PALETTE
from ssltool.plotting.style import (
    COLUMN,
    LINE,
    POINT,
    SMALL,
    TEXT,
    new_figure,
    styled,
)
from ssltool.plotting.text import legible, shortened, text_width, wrap

_MAP = 225.0  # points, the side of a map
_THUMBNAIL = 13.0  # points, the side of a thumbnail with its frame
_FRAME = 1.0
_APART = 1.0  # points between thumbnails
_NAMED = 40  # classes up to which names stand in the map, where they do not fit a legend

Color = tuple[float, float, float]


class Map(NamedTuple):
    """A drawn map.

    Attributes:
        figure: The figure.
        shown: Number of thumbnails.
    """

    figure: Figure
    shown: int


@styled
def thumbnail_map(
    points: NDArray[np.float64],
    images: Tensor,
    *,
    labels: Sequence[int] = (),
    classes: Sequence[str] = (),
    title: str = "",
    axes: tuple[str, str] = ("", ""),
) -> Map:
    """Draw all images as points, and below as many of them as thumbnails as do not touch.

    Thumbnails are chosen in a shuffled order, so that no class comes first. Up to 7 classes are
    named in a legend, up to 40 at the median of their points.

    Args:
        points: ``[N, 2]`` on any scale; the axes are stretched alike.
        images: uint8 ``[N, 3, h, w]``.
        labels: Class of each point, ``[N]``; empty without classes.
        classes: Names of the classes.
        title: Drawn on top.
        axes: Labels of both axes.
    """
    colors = [class_color(label, len(classes)) for label in labels] or [_PLAIN] * len(points)
    side = _MAP * POINT
    legend = 0 < len(classes) <= len(PALETTE)
    foot = _legend_height(classes) if legend else 0.0
    drawn = new_figure(title, 2 * side + 1.0 + foot)
    above, below = drawn.subplots(2, 1)
    at = _spread(points)
    for axis in (above, below):
        axis.set(xlim=(0, _MAP), ylim=(0, _MAP), aspect="equal")
        axis.xaxis.set_major_locator(NullLocator())
        axis.yaxis.set_major_locator(NullLocator())
        axis.set_xlabel("\n".join(wrap(legible(axes[0]), TEXT, _MAP)))
        axis.set_ylabel("\n".join(wrap(legible(axes[1]), TEXT, _MAP)))
    size = 9.0 if len(points) <= 300 else 4.0
    above.scatter(*at.T, s=size, c=colors, edgecolors="white", linewidths=0.2)
    above.set_title(f"all {len(points):,} images")
    kept = thinned(at, _THUMBNAIL + _APART)
    for i in kept:
        _paste(below, images[i], at[i], colors[i])
    below.set_title(f"{len(kept):,} of them, so that none covers another")
    if legend:
        _legend(drawn, classes)
    elif len(classes) <= _NAMED and classes:
        _name_classes(drawn, above, at, labels, classes)
    return Map(drawn, len(kept))


_PLAIN: Color = (0.0, 114 / 255, 178 / 255)


def class_color(index: int, classes: int) -> Color:
    """Color of a class, RGB in 0..1; distinct with any color vision for up to seven classes."""
    if classes <= len(PALETTE):
        red, green, blue = (int(PALETTE[index][i : i + 2], 16) / 255 for i in (1, 3, 5))
    else:
        red, green, blue, _ = colormaps["turbo"](0.04 + 0.92 * index / (classes - 1))
    return red, green, blue


def thinned(points: NDArray[np.float64], apart: float) -> list[int]:
    """Indices of points ``[N, 2]`` no two of which are closer than ``apart`` along both axes,
    chosen in a shuffled order.
    """
    kept: list[int] = []
    for i in np.random.Generator(np.random.PCG64(0)).permutation(len(points)):
        if not kept or (np.abs(points[kept] - points[i]).max(axis=1) >= apart).all():
            kept.append(int(i))
    return kept


def _spread(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the map, in points of print, centered, with room for the outermost thumbnails."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (_MAP - _THUMBNAIL - 4) / max(float((high - low).max()), 1e-9)
    spread: NDArray[np.float64] = (points - (low + high) / 2) * scale + _MAP / 2
    return spread


def _paste(axis: Axes, image: Tensor, at: NDArray[np.float64], color: Color) -> None:
    """Draw an image around its point with a frame in its color."""
    pixels = as_rgb(image).permute(1, 2, 0).cpu().numpy()
    inner = _THUMBNAIL - 2 * _FRAME
    # Without a rendering of its own, an offset image has a pixel per point, times the zoom.
    shown = OffsetImage(
        pixels, zoom=inner / max(pixels.shape[:2]), interpolation="antialiased", resample=True
    )
    frame = {"edgecolor": color, "facecolor": color, "linewidth": 0}
    pad = _FRAME / TEXT  # in units of the font's size
    axis.add_artist(AnnotationBbox(shown, (at[0], at[1]), pad=pad, fontsize=TEXT, bboxprops=frame))


def _legend_height(classes: Sequence[str]) -> float:
    return -(-len(classes) // _columns(classes)) * LINE * TEXT * POINT + 0.1


def _columns(classes: Sequence[str]) -> int:
    entry = 22 + max(text_width(_class_name(name), TEXT) for name in classes)
    return max(1, min(len(classes), int(COLUMN / POINT // entry)))


def _class_name(name: str) -> str:
    return shortened(legible(name), TEXT, COLUMN / POINT - 40)


def _legend(drawn: Figure, classes: Sequence[str]) -> None:
    marks = [
        Line2D([], [], linestyle="", marker="o", markersize=4, color=class_color(i, len(classes)))
        for i in range(len(classes))
    ]
    numbers = [str(i) for i in range(len(classes))]  # names that begin with _ would be left out
    legend = drawn.legend(
        marks, numbers, loc="outside lower center", ncols=_columns(classes), handlelength=0.8
    )
    for text, name in zip(legend.get_texts(), classes, strict=True):
        text.set_text(_class_name(name))


def _name_classes(
    drawn: Figure,
    axis: Axes,
    at: NDArray[np.float64],
    labels: Sequence[int],
    classes: Sequence[str],
) -> None:
    """Write each class's name at the median of its points; names that would cover one another are
    moved up or down.
    """
    taken: list[tuple[float, float, float, float]] = []
    for label in sorted(set(labels)):
        x, y = np.median(at[np.asarray(labels) == label], axis=0)
        name = shortened(legible(classes[label]), SMALL, 60)
        wide, tall = text_width(name, SMALL) + 3, LINE * SMALL + 0.5
        x = min(max(x, wide / 2), _MAP - wide / 2)
        for step in sorted(range(-60, 61), key=abs):  # nearest free height
            row = y + step * tall / 2
            free = all(abs(x - a) >= (wide + w) / 2 or abs(row - b) >= tall for a, b, w, _ in taken)
            if free and tall / 2 <= row <= _MAP - tall / 2:
                break
        taken.append((x, row, wide, tall))
        axis.text(
            x,
            row,
            name,
            ha="center",
            va="center",
            fontsize=SMALL,
            color="black",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
