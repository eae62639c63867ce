"""`Pen`: polygons, ellipses and strokes in numbered inks on a square map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
InkMap = NDArray[np.uint8]


class Ink(IntEnum):
    """Inks of a scene by their number on the map: three of the background, then the object's."""

    PAPER = 0
    FIELD = 1
    PATTERN = 2
    BODY = 3
    SECOND = 4
    THIRD = 5
    DETAIL = 6
    SPOT = 7
    OUTLINE = 8


OBJECT = Ink.BODY
"""The first ink of the object; the background has those below."""

_CIRCLE = [(math.cos(k * math.tau / 16), math.sin(k * math.tau / 16)) for k in range(16)]


class Pen:
    """Draws shapes on a map of ink numbers, in a movable frame of coordinates.

    Pillow rounds corners to the pixels of the map, so that the last bits of sines and products,
    which differ between machines, do not reach the image.

    Args:
        side: Side of the map in pixels.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        self._image = Image.new("L", (side, side))
        self._draw = ImageDraw.Draw(self._image)
        self.frame(0, 0, 1, 1)

    def frame(self, x: float, y: float, width: float, height: float, tilt: float = 0) -> None:
        """Set the origin and the length of a unit, in image sides; ``tilt`` is in radians."""
        cos, sin, side = math.cos(tilt), math.sin(tilt), self._side
        # Pillow cuts off fractions: half a pixel more makes that rounding.
        self._across = (width * cos * side, -height * sin * side, x * side + 0.5)
        self._down = (width * sin * side, height * cos * side, y * side + 0.5)
        self._unit = math.sqrt(abs(width * height)) * side

    def polygon(self, ink: Ink, points: Sequence[Point]) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._pixels(points), fill=ink)

    def box(self, ink: Ink, left: float, top: float, right: float, bottom: float) -> None:
        """Fill a rectangle."""
        self.polygon(ink, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def oval(self, ink: Ink, x: float, y: float, rx: float, ry: float, turn: float = 0) -> None:
        """Fill an ellipse around (x, y), turned by ``turn`` radians."""
        cos, sin = math.cos(turn), math.sin(turn)
        center, along, across = self._pixels(
            [(x, y), (x + rx * cos, y + rx * sin), (x - ry * sin, y + ry * cos)]
        )
        (cx, cy), (ax, ay), (bx, by) = center, along, across
        ax, ay, bx, by = ax - cx, ay - cy, bx - cx, by - cy
        points = [(cx + ax * u + bx * v, cy + ay * u + by * v) for u, v in _CIRCLE]
        self._draw.polygon(points, fill=ink)

    def dot(self, ink: Ink, x: float, y: float, radius: float) -> None:
        """Fill a circle that is round in any frame."""
        ((x, y),), r = self._pixels([(x, y)]), max(1, round(radius * self._unit))
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)

    def line(self, ink: Ink, points: Sequence[Point], width: float) -> None:
        """Draw straight strokes of a width from point to point."""
        self._draw.line(self._pixels(points), fill=ink, width=max(1, round(width * self._unit)))

    def curve(self, ink: Ink, start: Point, control: Point, end: Point, width: float) -> None:
        """Draw a quadratic Bezier curve of a width."""
        points = []
        for k in range(9):
            t = k / 8
            a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
            x, y = (a * p + b * q + c * r for p, q, r in zip(start, control, end, strict=True))
            points.append((x, y))
        self.line(ink, points, width)

    def map(self, outline: float) -> InkMap:
        """Ink numbers ``[side, side]``, with outlines around the parts of the object.

        Args:
            outline: Width of the outlines, in image sides.
        """
        inks = np.asarray(self._image)
        width = max(1, round(outline * self._side))
        inner = slice(width // 2, width // 2 - width)
        parts = np.maximum(inks, OBJECT - 1)  # the background is one part
        edge = np.zeros(inks.shape, bool)
        edge[:, inner] = parts[:, width:] != parts[:, :-width]
        edge[inner] |= parts[width:] != parts[:-width]
        outlined: InkMap = np.maximum(inks, edge.view(np.uint8) * np.uint8(Ink.OUTLINE))
        return outlined

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        (ax, bx, cx), (ay, by, cy) = self._across, self._down
        return [(ax * x + bx * y + cx, ay * x + by * y + cy) for x, y in points]
