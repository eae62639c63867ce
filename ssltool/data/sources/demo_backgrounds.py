"""Backgrounds of the demo world: patterns without a top, a bottom or a center."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from ssltool.data.sources.demo_pen import Ink, Pen


class Background(NamedTuple):
    """A pattern and what it is made of.

    Attributes:
        materials: Names of the materials of paper and pattern.
        draw: Draws the pattern.
    """

    materials: tuple[str, str]
    draw: Callable[[Pen, Random], None]


def draw_background(pen: Pen, name: str, random: Random) -> None:
    """Fill the map: two fields that meet along a rough line of any direction, and a pattern."""
    pen.frame(0.5, 0.5, 1, 1, random.uniform(0, math.tau))
    level = random.uniform(-0.3, 0.3)
    crest = [(k / 4, level + random.uniform(-0.06, 0.06)) for k in range(-3, 4)]
    pen.polygon(Ink.FIELD, [(-1, level), *crest, (1, level), (1, 1), (-1, 1)])
    pen.frame(0, 0, 1, 1)
    BACKGROUNDS[name].draw(pen, random)


def _bricks(pen: Pen, random: Random) -> None:
    height, width, shift = random.uniform(0.14, 0.22), random.uniform(0.02, 0.03), random.random()
    long = height * random.uniform(1.8, 2.4)
    for row in range(math.ceil(1 / height) + 1):
        y = (row - shift) * height
        pen.line(Ink.PATTERN, [(0, y), (1, y)], width)
        for column in range(math.ceil(1 / long) + 1):
            x = (column - (shift + row / 2) % 1) * long
            pen.line(Ink.PATTERN, [(x, y), (x, y + height)], width)


def _clouds(pen: Pen, random: Random) -> None:
    for _ in range(random.randrange(5, 9)):
        x, y, size = random.random(), random.random(), random.uniform(0.05, 0.1)
        pen.dot(Ink.PATTERN, x, y, size)
        for side in (-1.2, 1.2):
            pen.dot(Ink.PATTERN, x + side * size, y + size * 0.3, size * 0.7)


def _lines(pen: Pen, random: Random) -> None:
    step, width = random.uniform(0.1, 0.25), random.uniform(0.25, 0.55)
    pen.frame(0.5, 0.5, 1, 1, random.uniform(0, math.pi))
    count = math.ceil(0.75 / step)
    for k in range(-count, count + 1):
        pen.line(Ink.PATTERN, [(k * step, -0.8), (k * step, 0.8)], width * step)


def _scatter(pen: Pen, random: Random) -> None:
    for _ in range(random.randrange(14, 30)):
        x, y, size = random.random(), random.random(), random.uniform(0.02, 0.07)
        kind = random.randrange(3)
        if kind == 0:
            pen.dot(Ink.PATTERN, x, y, size)
        elif kind == 1:
            pen.polygon(Ink.PATTERN, [(x, y - size), (x + size, y + size), (x - size, y + size)])
        else:
            end = (x + random.uniform(-0.15, 0.15), y + random.uniform(-0.15, 0.15))
            pen.line(Ink.PATTERN, [(x, y), end], 0.03)


def _spots(pen: Pen, random: Random) -> None:
    step, size = random.uniform(0.18, 0.3), random.uniform(0.18, 0.32)
    lean, shift = random.uniform(-0.3, 0.3), random.random()
    for row in range(math.ceil(1 / step) + 2):
        for column in range(math.ceil(1 / step) + 2):
            x = (column - (shift + row / 2 + row * lean) % 1) * step
            pen.dot(Ink.PATTERN, x, (row - shift) * step, size * step)


def _tufts(pen: Pen, random: Random) -> None:
    for _ in range(random.randrange(12, 24)):
        x, y, size = random.random(), random.random(), random.uniform(0.04, 0.1)
        left, right = (x - 0.6 * size, y - size), (x + 0.6 * size, y - size)
        pen.line(Ink.PATTERN, [left, (x, y), right], 0.025)


def _waves(pen: Pen, random: Random) -> None:
    step, long, shift = random.uniform(0.14, 0.24), random.uniform(0.09, 0.16), random.random()
    width = step * random.uniform(0.2, 0.4)
    for row in range(math.ceil(1 / step) + 1):
        y = (row - shift) * step
        zigzag = [
            ((k - shift * row % 2) * long, y + k % 2 * step * 0.3)
            for k in range(math.ceil(1 / long) + 4)
        ]
        pen.line(Ink.PATTERN, zigzag, width)


BACKGROUNDS = {
    "bricks": Background(("brick", "sand"), _bricks),
    "clouds": Background(("sky", "cloud"), _clouds),
    "lines": Background(("silk", "clay"), _lines),
    "scatter": Background(("sand", "wood"), _scatter),
    "spots": Background(("felt", "enamel"), _spots),
    "tufts": Background(("grass", "grass"), _tufts),
    "waves": Background(("water", "water"), _waves),
}
