"""`DemoSource`: labeled synthetic images, so that every command works without any file.

Ten classes of objects, each made of parts in a fixed arrangement (a roof above walls, wheels below
a cabin), stand upright in a scene with sky and ground, or wall and floor. Colors, textures,
lighting, position, size, tilt, mirroring, clutter and occlusion vary. The arrangement of the parts
determines the class; single pixels carry little information about it.

An image is a function of (seed, index) and can be rendered at any size. A scene is drawn as a map
of part numbers at a multiple of the size; two palettes turn the map into colors and texture
strengths, and both are averaged down, which antialiases the edges.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.sources.base import Source, class_order, fingerprint_of
from ssltool.data.sources.demo_objects import OBJECTS, Floats, Pen

# Small, so that a first run takes a minute or two on a laptop; any size can be rendered.
NATIVE_SIDE = 32


class DemoSource(Source):
    """Images of the demo world; the classes alternate, so that any range is balanced.

    Args:
        count: Number of images.
        seed: Random seed; two seeds have the same classes and no image in common.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self._count = count
        self._seed = seed
        self.classes = tuple(sorted(OBJECTS, key=class_order))
        self.description = f"{count:,} images of the demo world (seed {seed})"
        self.location = f"demo world, seed {seed}"

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

    def fingerprint(self, *, content: bool = False) -> str:
        del content  # an image is a function of the seed
        return fingerprint_of([b"demo 1"], [self.description.encode()])


def draw(thing: str, random: Random, size: int) -> NDArray[np.uint8]:
    """Draw a scene with one object.

    Args:
        thing: Name of a class.
        random: Generator of everything else in the image.
        size: Side in pixels.

    Returns:
        uint8 ``[size, size, 3]``, RGB.
    """
    oversampling = 4 if size <= 32 else 3 if size <= 96 else 2
    pen = Pen(size * oversampling, random)
    ground = _scenery(pen)
    _place_thing(pen, thing, ground)
    _foreground(pen)
    color, texture = pen.layers(oversampling)
    return _lit(color, texture, random)


def _scenery(pen: Pen) -> float:
    """Draw the background; return the height of the horizon, 0 (top) to 1 (bottom)."""
    horizon = pen.random.uniform(0.45, 0.8)
    (_outdoors if pen.random.random() < 0.65 else _indoors)(pen, horizon)
    return horizon


def _outdoors(pen: Pen, horizon: float) -> None:
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


def _indoors(pen: Pen, horizon: float) -> None:
    """Wall with paintings, skirting, floor with a rug."""
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


def _foreground(pen: Pen) -> None:
    """Draw up to two occluders: a post, a twig or something large at the edge."""
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


def _place_thing(pen: Pen, thing: str, ground: float) -> None:
    """Draw the object with its shadow, mirrored half of the time."""
    random = pen.random
    half = random.uniform(0.3, 0.45)
    stretch = random.uniform(0.82, 1.22)
    x = random.uniform(half * 0.95, 1 - half * 0.95)
    y = random.uniform(half, 1 - half)
    if y + half > ground:
        pen.oval(pen.ink("dark"), x, y + half * 0.97, half * stretch, half * 0.15)
    width = half * stretch * random.choice((-1, 1))
    pen.frame(x, y, width, half / stretch**0.5, random.gauss(0, 0.09))
    OBJECTS[thing](pen)


def _lit(color: Floats, texture: Floats, random: Random) -> NDArray[np.uint8]:
    """Apply textures, a light gradient, a color cast and noise to colors ``[S, S, 3]``; uint8."""
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
    """Linear light gradient, from 0.3 darker to 0.3 brighter at most."""
    angle, strength = random.uniform(0, math.tau), random.uniform(0, 0.6)
    slope: Floats = strength * (math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5))
    return slope


def _stripes(x: Floats, y: Floats, random: Random) -> Floats:
    """Parallel waves of random direction, 3 to 11 across the image, in -1..1."""
    angle, waves = random.uniform(0, math.pi), random.uniform(3, 11) * math.tau
    # Separable: sin(a + b) from the sines of rows and columns takes 4 S sines instead of S x S.
    a, b = waves * math.cos(angle) * x + random.uniform(0, math.tau), waves * math.sin(angle) * y
    waves_of: Floats = np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)
    return waves_of
