"""The ten objects of the demo world, and the pen that draws them."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Floats = NDArray[np.floating[Any]]

# Ranges of hue in degrees, saturation and value; they make color predictable from shape, as in
# photographs.
_PAINTS = {
    "any": ((0, 360), (0.15, 1.0), (0.2, 1.0)),
    "brick": ((0, 45), (0.2, 0.7), (0.4, 0.9)),
    "dark": ((0, 360), (0.0, 0.4), (0.02, 0.2)),
    "earth": ((20, 60), (0.2, 0.6), (0.3, 0.75)),
    "fire": ((5, 55), (0.7, 1.0), (0.8, 1.0)),
    "glass": ((180, 230), (0.1, 0.5), (0.35, 0.95)),
    "grass": ((65, 130), (0.3, 0.8), (0.25, 0.7)),
    "leaf": ((75, 150), (0.4, 0.9), (0.2, 0.7)),
    "light": ((0, 360), (0.0, 0.15), (0.8, 1.0)),
    "skin": ((14, 38), (0.2, 0.65), (0.35, 1.0)),
    "sky": ((190, 235), (0.1, 0.7), (0.55, 1.0)),
    "wall": ((0, 360), (0.05, 0.45), (0.35, 0.95)),
    "wood": ((15, 40), (0.3, 0.8), (0.2, 0.6)),
}
_ALWAYS = {"dark", "light"}
_ODD_COLOR = 0.2

_CIRCLE = [(math.cos(k * math.tau / 24), math.sin(k * math.tau / 24)) for k in range(24)]


class Pen:
    """Draws shapes in numbered inks on a square map, in a movable frame of coordinates.

    Args:
        side: Side of the map in pixels.
        random: Generator of the colors and textures of the inks.
    """

    def __init__(self, side: int, random: Random) -> None:
        self.random = random
        self._side = side
        self._map = Image.new("L", (side, side))
        self._draw = ImageDraw.Draw(self._map)
        self._colors: list[int] = []
        self._textures: list[int] = []
        self.frame(0, 0, 1, 1)

    def frame(self, x: float, y: float, width: float, height: float, tilt: float = 0) -> None:
        """Set the origin and the length of a unit, in image sides; ``tilt`` is in radians."""
        cos, sin, side = math.cos(tilt), math.sin(tilt), self._side
        self._across = (width * cos * side, -height * sin * side, x * side)
        self._down = (width * sin * side, height * cos * side, y * side)

    def ink(self, paint: str, shade: float = 1.0) -> int:
        """New ink: a random color of a paint, its value times ``shade``, and a random texture."""
        random = self.random
        if paint not in _ALWAYS and random.random() < _ODD_COLOR:
            paint = "any"
        hue, saturation, value = (random.uniform(*limits) for limits in _PAINTS[paint])
        red, green, blue = colorsys.hsv_to_rgb(hue / 360, saturation, min(1.0, value * shade))
        self._colors += [round(red * 255), round(green * 255), round(blue * 255)]
        stripes = random.choice((0, 0, 0, 160, 255))
        self._textures += [*random.choice(([stripes, 0], [0, stripes])), random.randrange(40, 256)]
        return len(self._colors) // 3 - 1

    def polygon(self, ink: int, points: Sequence[Point]) -> None:
        """Fill a polygon."""
        (ax, bx, cx), (ay, by, cy) = self._across, self._down
        self._draw.polygon(
            [(ax * x + bx * y + cx, ay * x + by * y + cy) for x, y in points], fill=ink
        )

    def box(self, ink: int, left: float, top: float, right: float, bottom: float) -> None:
        """Fill a rectangle."""
        self.polygon(ink, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def oval(self, ink: int, x: float, y: float, rx: float, ry: float, turn: float = 0) -> None:
        """Fill an ellipse around (x, y), turned by ``turn`` radians."""
        cos, sin = math.cos(turn), math.sin(turn)
        self.polygon(
            ink,
            [
                (x + rx * c * cos - ry * s * sin, y + rx * c * sin + ry * s * cos)
                for c, s in _CIRCLE
            ],
        )

    def bar(self, ink: int, start: Point, end: Point, width: float) -> None:
        """Draw a straight stroke of a width."""
        (x0, y0), (x1, y1) = start, end
        half = width / 2 / max(1e-6, math.hypot(x1 - x0, y1 - y0))
        dx, dy = (y0 - y1) * half, (x1 - x0) * half
        self.polygon(
            ink, [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]
        )

    def layers(self, oversampling: int) -> tuple[Floats, Floats]:
        """Colors 0..255 and strengths 0..1 of three textures, both ``[S, S, 3]``, averaged down."""
        layers = []
        for palette in (self._colors, self._textures):
            self._map.putpalette(palette)
            layers.append(
                np.asarray(self._map.convert("RGB").reduce(oversampling), dtype=np.float32)
            )
        return layers[0], layers[1] / 255


# The objects, each in the box from (-1, -1), top left, to (1, 1), bottom right.


def _bird(pen: Pen) -> None:
    plumage, wing, leg = pen.ink("any"), pen.ink("any"), pen.ink("fire", 0.7)
    pen.polygon(plumage, [(-0.45, 0.15), (-1.0, -0.1), (-0.95, 0.3), (-0.4, 0.4)])
    for x in (-0.05, 0.15):
        pen.bar(leg, (x, 0.5), (x + 0.03, 0.97), 0.07)
        pen.bar(leg, (x - 0.05, 0.95), (x + 0.16, 0.95), 0.07)
    pen.oval(plumage, 0.0, 0.2, 0.6, 0.4, -0.25)
    pen.oval(wing, -0.12, 0.15, 0.42, 0.2, pen.random.uniform(-0.3, 0.5))
    pen.polygon(pen.ink("fire"), [(0.72, -0.5), (1.0, -0.38), (0.72, -0.28)])
    pen.oval(plumage, 0.52, -0.38, 0.32, 0.32)
    pen.oval(pen.ink("dark"), 0.6, -0.45, 0.08, 0.08)


def _boat(pen: Pen) -> None:
    pen.bar(pen.ink("wood"), (0.0, -0.98), (0.0, 0.5), 0.09)
    height = pen.random.uniform(-0.95, -0.7)
    pen.polygon(pen.ink("light"), [(0.08, height), (0.8, 0.32), (0.08, 0.32)])
    pen.polygon(pen.ink("any"), [(-0.08, height + 0.15), (-0.08, 0.32), (-0.62, 0.32)])
    pen.polygon(pen.ink("any"), [(-0.98, 0.45), (0.98, 0.45), (0.68, 0.95), (-0.66, 0.95)])
    pen.polygon(pen.ink("light"), [(-0.98, 0.45), (0.98, 0.45), (0.92, 0.56), (-0.91, 0.56)])


def _car(pen: Pen) -> None:
    body, tyre, hub, glass = pen.ink("any"), pen.ink("dark"), pen.ink("light"), pen.ink("glass")
    back = pen.random.uniform(-0.75, -0.5)
    pen.polygon(body, [(back, 0.0), (-0.42, -0.52), (0.3, -0.52), (0.62, 0.0)])
    pen.polygon(
        body, [(-1.0, 0.05), (-0.9, -0.05), (0.8, -0.05), (1.0, 0.12), (1.0, 0.45), (-1.0, 0.45)]
    )
    pen.polygon(glass, [(back + 0.17, -0.02), (-0.36, -0.42), (-0.1, -0.42), (-0.1, -0.02)])
    pen.polygon(glass, [(0.0, -0.02), (0.0, -0.42), (0.24, -0.42), (0.46, -0.02)])
    for x in (-0.55, 0.55):
        pen.oval(tyre, x, 0.45, 0.25, 0.27)
        pen.oval(hub, x, 0.45, 0.11, 0.12)
    pen.oval(pen.ink("fire"), 0.9, 0.17, 0.08, 0.08)


def _face(pen: Pen) -> None:
    skin, hair, dark, white = pen.ink("skin"), pen.ink("wood"), pen.ink("dark"), pen.ink("light")
    pen.oval(hair, 0.0, -0.2, 0.8, 0.76)
    for x in (-0.7, 0.7):
        pen.oval(skin, x, 0.1, 0.13, 0.2)
    pen.oval(skin, 0.0, 0.12, 0.66, 0.82)
    pen.polygon(hair, [(-0.62, -0.2), (-0.45, -0.7), (0.45, -0.7), (0.62, -0.2), (0.2, -0.42)])
    gaze = pen.random.uniform(-0.06, 0.06)
    for x in (-0.27, 0.27):
        pen.oval(white, x, -0.04, 0.15, 0.1)
        pen.oval(dark, x + gaze, -0.04, 0.08, 0.09)
        pen.bar(hair, (x - 0.16, -0.22), (x + 0.16, -0.22), 0.07)
    pen.polygon(pen.ink("skin", 0.7), [(0.0, 0.05), (0.1, 0.38), (-0.1, 0.38)])
    pen.oval(
        pen.ink("fire", 0.7),
        0.0,
        0.6,
        pen.random.uniform(0.18, 0.34),
        pen.random.uniform(0.05, 0.13),
    )


def _fish(pen: Pen) -> None:
    body, fin = pen.ink("any"), pen.ink("any")
    pen.polygon(fin, [(-0.5, 0.0), (-1.0, -0.45), (-0.88, 0.0), (-1.0, 0.45)])
    pen.polygon(fin, [(-0.25, -0.35), (0.05, -0.78), (0.4, -0.3)])
    pen.polygon(fin, [(-0.1, 0.35), (0.0, 0.7), (0.25, 0.35)])
    pen.oval(body, 0.15, 0.0, 0.78, 0.46)
    band = pen.ink("any")
    for x in (-0.3, -0.02):
        pen.box(band, x, -0.33, x + 0.13, 0.33)
    pen.polygon(fin, [(0.3, 0.05), (0.02, 0.3), (0.36, 0.24)])
    pen.oval(pen.ink("light"), 0.6, -0.12, 0.12, 0.12)
    pen.oval(pen.ink("dark"), 0.62, -0.12, 0.06, 0.06)
    pen.bar(pen.ink("dark"), (0.72, 0.15), (0.92, 0.1), 0.05)


def _flower(pen: Pen) -> None:
    green, petal = pen.ink("leaf"), pen.ink("any")
    pen.bar(green, (0.0, -0.3), (0.05, 1.0), 0.1)
    pen.oval(green, -0.32, 0.62, 0.34, 0.13, 0.5)
    pen.oval(green, 0.38, 0.5, 0.34, 0.13, -0.5)
    petals = pen.random.randrange(5, 9)
    for k in range(petals):
        turn = k * math.tau / petals
        pen.oval(petal, 0.4 * math.cos(turn), -0.38 + 0.4 * math.sin(turn), 0.27, 0.17, turn)
    pen.oval(pen.ink("fire"), 0.0, -0.38, 0.24, 0.24)


def _house(pen: Pen) -> None:
    pen.box(pen.ink("brick"), 0.35, -0.9, 0.58, -0.3)
    pen.box(pen.ink("wall"), -0.75, -0.15, 0.75, 0.98)
    peak = pen.random.uniform(-0.95, -0.75)
    pen.polygon(pen.ink("brick"), [(-1.0, -0.12), (-0.15, peak), (0.15, peak), (1.0, -0.12)])
    pen.box(pen.ink("wood"), 0.12, 0.35, 0.5, 0.98)
    glass, frame = pen.ink("glass"), pen.ink("light")
    for x, y in ((-0.58, 0.0), (0.1, -0.02), (-0.58, 0.48)):
        pen.box(frame, x - 0.04, y - 0.02, x + 0.44, y + 0.32)
        pen.box(glass, x, y + 0.02, x + 0.4, y + 0.28)


def _mug(pen: Pen) -> None:
    body = pen.ink("any")
    handle = [(0.5, -0.2), (0.88, -0.15), (0.95, 0.25), (0.8, 0.6), (0.45, 0.68)]
    for start, end in pairwise(handle):
        pen.bar(body, start, end, 0.17)
    pen.polygon(body, [(-0.75, -0.45), (0.6, -0.45), (0.5, 0.95), (-0.65, 0.95)])
    pen.box(
        pen.ink("any"), -0.71, pen.random.uniform(0.0, 0.2), 0.55, pen.random.uniform(0.35, 0.6)
    )
    pen.oval(body, -0.075, -0.45, 0.675, 0.16)
    pen.oval(pen.ink("wood"), -0.075, -0.43, 0.57, 0.1)
    steam = pen.ink("light")
    for x in (-0.3, 0.1):
        pen.bar(steam, (x, -0.6), (x + 0.1, -0.78), 0.07)
        pen.bar(steam, (x + 0.1, -0.78), (x, -0.98), 0.07)


def _rocket(pen: Pen) -> None:
    fin = pen.ink("any")
    length = pen.random.uniform(0.8, 1.0)
    pen.polygon(pen.ink("fire"), [(-0.22, 0.5), (0.0, length), (0.22, 0.5)])
    pen.polygon(fin, [(-0.25, 0.0), (-0.65, 0.62), (-0.2, 0.5)])
    pen.polygon(fin, [(0.25, 0.0), (0.65, 0.62), (0.2, 0.5)])
    pen.polygon(
        pen.ink("light"),
        [(-0.2, -0.6), (0.2, -0.6), (0.34, -0.1), (0.24, 0.55), (-0.24, 0.55), (-0.34, -0.1)],
    )
    pen.polygon(fin, [(0.0, -1.0), (0.14, -0.8), (0.23, -0.5), (-0.23, -0.5), (-0.14, -0.8)])
    pen.oval(pen.ink("dark"), 0.0, -0.2, 0.19, 0.19)
    pen.oval(pen.ink("glass"), 0.0, -0.2, 0.13, 0.13)


def _tree(pen: Pen) -> None:
    pen.polygon(pen.ink("wood"), [(-0.1, 0.1), (0.1, 0.1), (0.17, 1.0), (-0.17, 1.0)])
    leaves = pen.ink("leaf")
    if pen.random.random() < 0.5:
        for top, half in ((0.0, 0.75), (-0.45, 0.6), (-0.98, 0.42)):
            pen.polygon(leaves, [(0.0, top - 0.02), (half, top + 0.6), (-half, top + 0.6)])
        return
    for x, y in ((-0.38, -0.05), (0.4, -0.1), (0.0, -0.5), (-0.02, 0.05)):
        pen.oval(leaves, x, y, pen.random.uniform(0.38, 0.52), pen.random.uniform(0.34, 0.46))
    fruit = pen.ink("any")
    for _ in range(pen.random.randrange(5)):
        pen.oval(fruit, pen.random.uniform(-0.6, 0.6), pen.random.uniform(-0.6, 0.2), 0.09, 0.09)


OBJECTS: dict[str, Callable[[Pen], None]] = {
    "bird": _bird,
    "boat": _boat,
    "car": _car,
    "face": _face,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "mug": _mug,
    "rocket": _rocket,
    "tree": _tree,
}
