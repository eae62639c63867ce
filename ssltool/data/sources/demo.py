"""The demo world: labeled images drawn on the fly, so that every command works without any file.

Ten kinds of things, each built from parts that always sit in the same arrangement (a roof above
walls, wheels below a cabin), stand upright in a scene with a sky above and a ground below, or a
wall and a floor. Colors, textures, light, place, size, tilt, mirror image, clutter and things in
front vary. The arrangement of parts tells the class; single pixels tell little of it.

An image is a function of (seed, index) alone and can be drawn at any size. Scenes are drawn as a
map of part numbers at a few times the size; two palettes turn the map into colors and into
strengths of texture, and both are averaged down, which is what antialiases the edges.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssltool.data.sources.base import Source

Point = tuple[float, float]
Floats = NDArray[np.floating[Any]]

NATIVE_SIDE = (
    32  # small, so that a first run takes a minute or two on a laptop; any size can be drawn
)

# Ranges of hue in degrees, saturation and value. They are what makes color predictable from shape,
# as in photographs.
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
_ODD_COLOUR = 0.2

_CIRCLE = [(math.cos(k * math.tau / 24), math.sin(k * math.tau / 24)) for k in range(24)]


class DemoSource(Source):
    """Images of the demo world. Consecutive images go through the classes in turn, so any stretch
    is balanced.

    Args:
        count: Number of images.
        seed: Which world; two seeds have the same classes and no image in common.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self._count = count
        self._seed = seed
        self.classes = tuple(_THINGS)
        self.description = f"{count:,} images of the demo world (seed {seed})"

    def __len__(self) -> int:
        return self._count

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        return draw(self.classes[self.label(index)], Random(f"{self._seed}/{index}"), size)

    def short_side(self, index: int) -> int:
        return NATIVE_SIDE

    def name(self, index: int) -> str:
        return f"demo image {index} of seed {self._seed}"

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def fingerprint(self) -> str:
        return sha256(f"demo 1, {self._count} images, seed {self._seed}".encode()).hexdigest()


def draw(thing: str, random: Random, size: int) -> NDArray[np.uint8]:
    """Draw a scene around one thing.

    Args:
        thing: Name of a class.
        random: Decides everything else about the image.
        size: Side in pixels.

    Returns:
        uint8 ``[size, size, 3]``, RGB.
    """
    oversampling = 4 if size <= 32 else 3 if size <= 96 else 2
    pen = _Pen(size * oversampling, random)
    ground = _scenery(pen)
    _place_thing(pen, thing, ground)
    _foreground(pen)
    color, texture = pen.layers(oversampling)
    return _lit(color, texture, random)


class _Pen:
    """PerImageRNG shapes of numbered inks on a square map, through a movable frame of coordinates.

    Args:
        side: Side of the map in pixels.
        random: Source of the inks' colors and textures.
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
        """Set where (0, 0) lies and how long a unit is, in sides of the image; ``tilt`` turns, in
        radians.
        """
        cos, sin, side = math.cos(tilt), math.sin(tilt), self._side
        self._across = (width * cos * side, -height * sin * side, x * side)
        self._down = (width * sin * side, height * cos * side, y * side)

    def ink(self, paint: str, shade: float = 1.0) -> int:
        """Mix a new ink: a random color of a paint, its value multiplied by ``shade``, and a random
        texture.
        """
        random = self.random
        if paint not in _ALWAYS and random.random() < _ODD_COLOUR:
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
        """Average the map down to colors 0 to 255 and strengths 0 to 1 of three textures, both
        ``[S, S, 3]``.
        """
        layers = []
        for palette in (self._colors, self._textures):
            self._map.putpalette(palette)
            layers.append(
                np.asarray(self._map.convert("RGB").reduce(oversampling), dtype=np.float32)
            )
        return layers[0], layers[1] / 255


def _scenery(pen: _Pen) -> float:
    """Draw what is behind the thing; return the height of the ground's far edge, 0 top to 1 bottom."""
    horizon = pen.random.uniform(0.45, 0.8)
    (_outdoors if pen.random.random() < 0.65 else _indoors)(pen, horizon)
    return horizon


def _outdoors(pen: _Pen, horizon: float) -> None:
    """Sky with clouds, hills, ground with stones and bushes."""
    random = pen.random
    pen.box(pen.ink("sky"), 0, 0, 1, horizon)
    for _ in range(random.randrange(3)):
        ink, x, y = pen.ink("light"), random.random(), random.uniform(0, horizon * 0.7)
        for step in range(3):
            pen.oval(
                ink,
                x + step * 0.09,
                y + random.uniform(-0.03, 0.03),
                random.uniform(0.06, 0.14),
                0.05,
            )
    for _ in range(random.randrange(3)):
        width, height = random.uniform(0.2, 0.6), random.uniform(0.05, 0.3)
        pen.oval(pen.ink("leaf"), random.random(), horizon, width, height)
    ground = pen.ink(random.choice(("grass", "earth", "glass")))
    pen.box(ground, 0, horizon, 1, 1)
    for _ in range(random.randrange(4)):
        size = random.uniform(0.03, 0.12)
        pen.oval(
            pen.ink("any"),
            random.random(),
            random.uniform(horizon, 1),
            size,
            size * random.uniform(0.4, 0.9),
        )


def _indoors(pen: _Pen, horizon: float) -> None:
    """Wall with images, skirting, floor with a rug."""
    random = pen.random
    pen.box(pen.ink("wall"), 0, 0, 1, horizon)
    for _ in range(random.randrange(4)):
        x, y = random.uniform(-0.1, 0.9), random.uniform(-0.1, horizon - 0.2)
        width, height = random.uniform(0.12, 0.35), random.uniform(0.12, 0.3)
        pen.box(pen.ink("wood"), x, y, x + width, y + height)
        pen.box(pen.ink("any"), x + 0.03, y + 0.03, x + width - 0.03, y + height - 0.03)
    pen.box(pen.ink("wood"), 0, horizon, 1, 1)
    pen.box(pen.ink("light"), 0, horizon - 0.03, 1, horizon)
    if random.random() < 0.5:
        pen.oval(
            pen.ink("any"),
            random.random(),
            random.uniform(horizon, 1),
            random.uniform(0.2, 0.5),
            0.09,
        )


def _foreground(pen: _Pen) -> None:
    """Draw up to two things in front: a post, a twig or something large at the edge."""
    random = pen.random
    pen.frame(0, 0, 1, 1)
    for _ in range(random.choice((0, 0, 1, 2))):
        kind = random.randrange(3)
        if kind == 0:
            x = random.random()
            pen.bar(
                pen.ink("wood"),
                (x, 0),
                (x + random.uniform(-0.1, 0.1), 1),
                random.uniform(0.02, 0.07),
            )
        elif kind == 1:
            start = (random.choice((0.0, 1.0)), random.random())
            pen.bar(
                pen.ink("leaf"),
                start,
                (random.random(), random.random()),
                random.uniform(0.02, 0.06),
            )
        else:
            size = random.uniform(0.08, 0.2)
            pen.oval(pen.ink("any"), random.choice((0.0, 1.0)), random.uniform(0.2, 1), size, size)


def _place_thing(pen: _Pen, thing: str, ground: float) -> None:
    """Draw the thing with its shadow, mirrored half of the time."""
    random = pen.random
    half = random.uniform(0.3, 0.45)
    stretch = random.uniform(0.82, 1.22)
    x = random.uniform(half * 0.95, 1 - half * 0.95)
    y = random.uniform(half, 1 - half)
    if y + half > ground:
        pen.oval(pen.ink("dark"), x, y + half * 0.97, half * stretch, half * 0.15)
    width = half * stretch * random.choice((-1, 1))
    pen.frame(x, y, width, half / stretch**0.5, random.gauss(0, 0.09))
    _THINGS[thing](pen)


def _lit(color: Floats, texture: Floats, random: Random) -> NDArray[np.uint8]:
    """Apply textures, a gradient of light, a cast and noise to flat colors ``[S, S, 3]``; return
    uint8.
    """
    size = len(color)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    noise = np.random.default_rng(random.getrandbits(64))
    grain = noise.random((48, 48), dtype=np.float32)
    speckle = (
        np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BILINEAR)) - 0.5
    )
    light = random.uniform(0.7, 1.15) + _slope(x, y, random)
    light += 0.18 * texture[..., 0] * _stripes(x, y, random) + 0.18 * texture[..., 1] * _stripes(
        x, y, random
    )
    light += 0.4 * texture[..., 2] * speckle
    cast = np.array([random.uniform(0.85, 1.1) for _ in range(3)], np.float32)
    image = color * (light[..., None] * cast)
    image += noise.standard_normal(image.shape, dtype=np.float32) * random.uniform(1, 7)
    return image.clip(0, 255).astype(np.uint8)


def _slope(x: Floats, y: Floats, random: Random) -> Floats:
    """Light that changes evenly across the image, from 0.3 darker to 0.3 brighter at most."""
    angle, strength = random.uniform(0, math.tau), random.uniform(0, 0.6)
    slope: Floats = strength * (math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5))
    return slope


def _stripes(x: Floats, y: Floats, random: Random) -> Floats:
    """Parallel waves of random direction, 3 to 11 across the image, -1 to 1."""
    angle, waves = random.uniform(0, math.pi), random.uniform(3, 11) * math.tau
    # Separable: sin(a + b) from the sines of rows and columns costs 4 S instead of S x S of them.
    a, b = waves * math.cos(angle) * x + random.uniform(0, math.tau), waves * math.sin(angle) * y
    waves_of: Floats = np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)
    return waves_of


# The things, each in the box from (-1, -1), top left, to (1, 1), bottom right.


def _bird(pen: _Pen) -> None:
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


def _boat(pen: _Pen) -> None:
    pen.bar(pen.ink("wood"), (0.0, -0.98), (0.0, 0.5), 0.09)
    height = pen.random.uniform(-0.95, -0.7)
    pen.polygon(pen.ink("light"), [(0.08, height), (0.8, 0.32), (0.08, 0.32)])
    pen.polygon(pen.ink("any"), [(-0.08, height + 0.15), (-0.08, 0.32), (-0.62, 0.32)])
    pen.polygon(pen.ink("any"), [(-0.98, 0.45), (0.98, 0.45), (0.68, 0.95), (-0.66, 0.95)])
    pen.polygon(pen.ink("light"), [(-0.98, 0.45), (0.98, 0.45), (0.92, 0.56), (-0.91, 0.56)])


def _car(pen: _Pen) -> None:
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


def _face(pen: _Pen) -> None:
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


def _fish(pen: _Pen) -> None:
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


def _flower(pen: _Pen) -> None:
    green, petal = pen.ink("leaf"), pen.ink("any")
    pen.bar(green, (0.0, -0.3), (0.05, 1.0), 0.1)
    pen.oval(green, -0.32, 0.62, 0.34, 0.13, 0.5)
    pen.oval(green, 0.38, 0.5, 0.34, 0.13, -0.5)
    petals = pen.random.randrange(5, 9)
    for k in range(petals):
        turn = k * math.tau / petals
        pen.oval(petal, 0.4 * math.cos(turn), -0.38 + 0.4 * math.sin(turn), 0.27, 0.17, turn)
    pen.oval(pen.ink("fire"), 0.0, -0.38, 0.24, 0.24)


def _house(pen: _Pen) -> None:
    pen.box(pen.ink("brick"), 0.35, -0.9, 0.58, -0.3)
    pen.box(pen.ink("wall"), -0.75, -0.15, 0.75, 0.98)
    peak = pen.random.uniform(-0.95, -0.75)
    pen.polygon(pen.ink("brick"), [(-1.0, -0.12), (-0.15, peak), (0.15, peak), (1.0, -0.12)])
    pen.box(pen.ink("wood"), 0.12, 0.35, 0.5, 0.98)
    glass, frame = pen.ink("glass"), pen.ink("light")
    for x, y in ((-0.58, 0.0), (0.1, -0.02), (-0.58, 0.48)):
        pen.box(frame, x - 0.04, y - 0.02, x + 0.44, y + 0.32)
        pen.box(glass, x, y + 0.02, x + 0.4, y + 0.28)


def _mug(pen: _Pen) -> None:
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


def _rocket(pen: _Pen) -> None:
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


def _tree(pen: _Pen) -> None:
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


_THINGS: dict[str, Callable[[_Pen], None]] = {
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
