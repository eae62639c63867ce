"""`DemoSource`: labeled synthetic images, so that every command works without any file.

Ten classes of objects, each a fixed arrangement of parts in several styles and proportions, on
patterned paper. The class draws from a random stream of its own. Everything else is sampled
without knowing it: the materials of the parts, and so their colors and textures, the background,
place, size, mirroring, tilt and light. So shape tells the classes apart, and colors do not.

An image is a function of (seed, index) and can be rendered at any size. A scene is drawn as a map
of ink numbers at a multiple of the size; a palette turns the map into colors, which are averaged
down, and textures. From the map on all arithmetic is of integers: every machine renders the same.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.sources.base import Source
from ssltool.data.sources.class_names import class_order
from ssltool.data.sources.demo_backgrounds import draw_background
from ssltool.data.sources.demo_objects import OBJECTS
from ssltool.data.sources.demo_pen import OBJECT, InkMap, Pen
from ssltool.data.sources.demo_scene import Scene
from ssltool.data.sources.fingerprints import fingerprint_of

# Small, so that a first run takes a minute or two on a laptop; any size can be rendered.
NATIVE_SIDE = 32

_OUTLINE = 0.028  # of the image's side
_PATCH_OF_LIGHT = 170  # of 256
_SLOPE = 0.35
_WAVE = np.abs(np.arange(-128, 128, dtype=np.int32)) - 64

Integers = NDArray[np.int32]


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
        scene = self.scene(index)
        return render(scene, self._map(index, scene, size), size)

    def mask(self, index: int, size: int) -> NDArray[np.bool_]:
        """Where the object is in ``read(index, size)``.

        Returns:
            bool ``[size, size]``, True for pixels that show any of the object or its outline.
        """
        factor = _oversampling(size)
        thing = self._map(index, self.scene(index), size) >= OBJECT
        mask: NDArray[np.bool_] = np.any(thing.reshape(size, factor, size, factor), axis=(1, 3))
        return mask

    def scene(self, index: int) -> Scene:
        """All of an image but its object; independent of the class."""
        return Scene.sample(Random(f"{self._seed}/{index}"))

    def short_side(self, index: int) -> int:
        return NATIVE_SIDE

    def name(self, index: int) -> str:
        return f"demo image {index} of seed {self._seed}"

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def fingerprint(self, *, content: bool = False) -> str:
        del content  # an image is a function of the seed
        return fingerprint_of([b"demo 2"], [self.description.encode()])

    def _map(self, index: int, scene: Scene, size: int) -> InkMap:
        style = Random(f"{self._seed}/{index}/object")
        return ink_map(scene, self.classes[self.label(index)], style, size)


def ink_map(scene: Scene, thing: str, style: Random, size: int) -> InkMap:
    """Draw an object in a scene, as numbers of inks.

    Args:
        scene: Where, and on what.
        thing: Name of a class.
        style: Stream of the object's styles and proportions.
        size: Side of the image in pixels.

    Returns:
        uint8 ``[k * size, k * size]``, `Ink`; 2 or 3 pixels along a side become one of the image.
    """
    pen = Pen(size * _oversampling(size))
    draw_background(pen, scene.background, Random(scene.layout))
    pen.frame(*scene.frame)
    OBJECTS[thing](pen, style)
    return pen.map(_OUTLINE)


def render(scene: Scene, inks: InkMap, size: int) -> NDArray[np.uint8]:
    """Color, texture and light a map.

    Args:
        scene: The scene it was drawn for.
        inks: As returned by `ink_map`.
        size: Side of the image in pixels.

    Returns:
        uint8 ``[size, size, 3]``, RGB.
    """
    factor = len(inks) // size
    image = Image.fromarray(inks)
    image.putpalette([value for color in scene.palette.colors for value in color])
    colors = np.asarray(image.convert("RGB").reduce(factor))
    centers = inks[factor // 2 :: factor, factor // 2 :: factor]
    textures = np.array(scene.palette.textures, np.int32).T.take(centers, axis=1)
    light = _light(textures, Random(scene.light))
    lit: NDArray[np.uint8] = np.minimum(colors * light[..., None] >> 8, 255).astype(np.uint8)
    return lit


def _oversampling(size: int) -> int:
    return 3 if size <= 96 else 2


def _light(textures: Integers, random: Random) -> Integers:
    """Brightness of every pixel, in 1/256: patches of light, a slope, lines, stripes, speckle.

    Args:
        textures: Strengths of the last three, 0 to 255, ``[3, size, size]``.
        random: Stream of directions, phases and grain.
    """
    size = textures.shape[-1]
    axis = np.arange(1, 2 * size, 2, dtype=np.int32) * 128 // size - 128  # -128..128
    patches = _cloud(random.randrange(2, 5), size, random)
    light = _plane(axis, random.uniform(0, _SLOPE), 256, random)
    light += patches * _PATCH_OF_LIGHT >> 8
    for channel, waves in ((0, random.uniform(9, 13)), (1, random.uniform(3, 5))):
        phase = _plane(axis, waves, random.randrange(256), random) & 255
        light += _WAVE.take(phase) * textures[channel] >> 8
    light += _cloud(32, size, random) * textures[2] >> 9
    return light


def _plane(axis: Integers, slope: float, middle: int, random: Random) -> Integers:
    """A plane ``[S, S]`` of random direction: ``middle``, and ``256 * slope`` from side to side."""
    angle = random.uniform(0, math.tau)
    across, down = round(slope * math.cos(angle) * 64), round(slope * math.sin(angle) * 64)
    plane: Integers = (across * axis >> 6) + (middle + (down * axis >> 6))[:, None]
    return plane


def _cloud(cells: int, size: int, random: Random) -> Integers:
    """Smooth noise, -128..127, ``[size, size]``, from a grid of cells."""
    grid = Image.frombytes("L", (cells, cells), random.randbytes(cells * cells))
    smooth = grid.resize((size, size), Image.Resampling.BILINEAR).tobytes()
    return np.frombuffer(smooth, np.uint8).reshape(size, size).astype(np.int32) - 128
