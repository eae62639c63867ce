"""`Scene`: everything in an image of the demo world but its class, as a function of a stream."""

from __future__ import annotations

import colorsys
from random import Random
from typing import NamedTuple

from ssltool.data.sources.demo_backgrounds import BACKGROUNDS

RGB = tuple[int, int, int]


class Material(NamedTuple):
    """What parts are made of; in gray, texture tells the material, and the material the color.

    Attributes:
        hue: Range in degrees.
        saturation: Range in 0..1.
        texture: Strengths, 0 to 255, of fine lines, wide stripes and speckle.
    """

    hue: tuple[float, float]
    saturation: tuple[float, float]
    texture: RGB


_MATERIALS = {
    "brick": Material((5, 22), (0.3, 0.7), (0, 0, 120)),
    "clay": Material((350, 372), (0.45, 0.85), (0, 0, 0)),
    "cloud": Material((200, 230), (0.0, 0.2), (0, 0, 60)),
    "denim": Material((215, 240), (0.3, 0.7), (110, 0, 120)),
    "enamel": Material((0, 360), (0.0, 0.25), (0, 0, 0)),
    "felt": Material((270, 330), (0.3, 0.7), (0, 0, 200)),
    "grass": Material((75, 125), (0.35, 0.8), (0, 0, 255)),
    "sand": Material((35, 52), (0.3, 0.7), (0, 60, 160)),
    "silk": Material((150, 190), (0.3, 0.7), (0, 220, 0)),
    "sky": Material((200, 230), (0.3, 0.8), (0, 0, 60)),
    "straw": Material((42, 58), (0.5, 0.9), (160, 0, 60)),
    "water": Material((185, 215), (0.35, 0.8), (0, 90, 30)),
    "wood": Material((22, 38), (0.35, 0.75), (255, 0, 60)),
}
_FIELDS = ("clay", "denim", "felt", "grass", "sand", "wood")
_SOLIDS = ("clay", "denim", "felt", "grass", "silk", "straw", "wood")
_ODD_COLOR = 0.1
_NEGATIVE = 0.3


class Palette(NamedTuple):
    """Color and texture of every ink, in the order of `Ink`.

    Attributes:
        colors: RGB, 0 to 255.
        textures: As of `Material`.
    """

    colors: tuple[RGB, ...]
    textures: tuple[RGB, ...]

    @classmethod
    def sample(cls, background: str, random: Random) -> Palette:
        """A palette for a background; any part of the object may be of any solid material."""
        paper, pattern = BACKGROUNDS[background].materials
        parts = random.sample(_SOLIDS, 3)
        materials = [paper, random.choice(_FIELDS), pattern, *parts, *["enamel"] * 3]
        paints = [
            _paint(_MATERIALS[name], tone, random)
            for name, tone in zip(materials, _tones(random), strict=True)
        ]
        return cls(tuple(color for color, _ in paints), tuple(texture for _, texture in paints))


class Frame(NamedTuple):
    """Where the object is: center and half-extents in image sides, tilt in radians.

    A negative width mirrors the object.
    """

    x: float
    y: float
    width: float
    height: float
    tilt: float

    @classmethod
    def sample(cls, random: Random) -> Frame:
        """A place, size, shape and tilt; the object's margin may be outside of the image."""
        half, stretch = random.uniform(0.36, 0.48), random.uniform(0.85, 1.15) ** 0.5
        reach = 0.57 - half
        return cls(
            0.5 + random.uniform(-reach, reach),
            0.5 + random.uniform(-reach, reach),
            half * stretch * random.choice((-1, 1)),
            half / stretch,
            random.uniform(-0.22, 0.22),
        )


class Scene(NamedTuple):
    """All of an image that does not depend on its class.

    Attributes:
        background: One of `BACKGROUNDS`.
        palette: Colors and textures of the inks.
        frame: Where the object is.
        layout: Seed of the background's shapes.
        light: Seed of light and textures.
    """

    background: str
    palette: Palette
    frame: Frame
    layout: int
    light: int

    @classmethod
    def sample(cls, random: Random) -> Scene:
        """Sample a scene; no class is an argument, so none can matter."""
        background = random.choice(tuple(BACKGROUNDS))
        palette, frame = Palette.sample(background, random), Frame.sample(random)
        return cls(background, palette, frame, random.getrandbits(32), random.getrandbits(32))


def _paint(material: Material, tone: float, random: Random) -> tuple[RGB, RGB]:
    """Color and texture of a material in a tone, 0 (black) to 1 (white)."""
    hues = material.hue if random.random() >= _ODD_COLOR else (0.0, 360.0)
    hue, saturation = random.uniform(*hues), random.uniform(*material.saturation)
    red, green, blue = (
        round(255 * value) for value in colorsys.hls_to_rgb(hue / 360 % 1, tone, saturation)
    )
    return (red, green, blue), material.texture


def _tones(random: Random) -> list[float]:
    """Tone of every ink: details stand out from the body, outlines are dark.

    Some scenes are negatives, so that no pixel alone tells where an outline is.
    """
    paper = random.uniform(0.3, 0.9)
    field = _apart(random, (paper, 0.4))
    pattern = _apart(random, (paper, 0.08), within=0.2)
    body = _apart(random, (paper, 0.05), (field, 0.05), (0, 0.25))
    second = _apart(random, (paper, 0.04), (body, 0.15), (0, 0.25))
    third = _apart(random, (paper, 0.04), (body, 0.15))
    detail = _apart(random, (body, 0.3), (second, 0.2))
    spot = _apart(random, (detail, 0.4))
    tones = [paper, field, pattern, body, second, third, detail, spot, random.uniform(0.03, 0.1)]
    return [1 - tone for tone in tones] if random.random() < _NEGATIVE else tones


def _apart(random: Random, *others: tuple[float, float], within: float = 1) -> float:
    """A tone that differs from others by given amounts, and from the first by at most ``within``.

    After twelve tries in vain any tone will do.
    """
    near, tone = others[0][0], 0.5
    for _ in range(12):
        tone = random.uniform(max(0.05, near - within), min(0.95, near + within))
        if all(abs(tone - other) >= gap for other, gap in others):
            break
    return tone
