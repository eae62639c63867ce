"""The ten objects of the demo world, each in several styles, drawn in the inks of a palette."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

from ssltool.data.sources.demo_pen import Ink, Pen

BODY, SECOND, THIRD, DETAIL, SPOT = Ink.BODY, Ink.SECOND, Ink.THIRD, Ink.DETAIL, Ink.SPOT

# Every object fills the box from (-1, -1), top left, to (1, 1), bottom right; ``style`` is a
# random stream of its own.


def _bird(pen: Pen, style: Random) -> None:
    vary = style.uniform
    for x in (-0.12, 0.2):
        step = vary(-0.1, 0.15)
        pen.line(THIRD, [(x, 0.4), (x + step, 0.96)], 0.1)
        pen.line(THIRD, [(x + step - 0.06, 0.95), (x + step + 0.22, 0.95)], 0.1)
    lift = vary(-0.5, 0.25)
    if style.random() < 0.5:
        pen.polygon(SECOND, [(-0.35, 0.0), (-1.0, lift), (-0.93, lift + 0.45), (-0.3, 0.4)])
    else:
        for turn in (-0.15, 0.15):
            pen.line(SECOND, [(-0.3, 0.15), (-0.98, lift + 0.2 + turn)], 0.16)
    pen.oval(BODY, -0.02, 0.14, vary(0.52, 0.64), vary(0.36, 0.48), vary(-0.4, -0.1))
    pen.polygon(DETAIL, [(0.66, -0.6), (1.0, vary(-0.55, -0.35)), (0.66, -0.26)])
    if style.random() < 0.4:
        for x in (0.34, 0.5, 0.66):
            pen.line(SECOND, [(0.5, -0.6), (x, -0.99)], 0.1)
    pen.oval(BODY, 0.5, -0.46, vary(0.28, 0.36), vary(0.28, 0.36))
    pen.oval(DETAIL, 0.57, -0.5, 0.14, 0.14)
    pen.oval(SPOT, 0.6, -0.5, 0.07, 0.07)
    up = vary(0, 1)
    pen.polygon(SECOND, [(0.25, 0.05), (-0.15, 0.3), (-0.6 + 0.2 * up, 0.35 - 1.1 * up)])


def _boat(pen: Pen, style: Random) -> None:
    vary = style.uniform
    mast, top = vary(-0.15, 0.15), vary(-0.98, -0.8)
    pen.line(THIRD, [(mast, top), (mast, 0.5)], 0.1)
    rig = style.randrange(3)
    if rig == 0:  # two triangles
        pen.polygon(SECOND, [(mast + 0.1, top), (vary(0.75, 0.98), 0.3), (mast + 0.1, 0.3)])
        pen.polygon(BODY, [(mast - 0.1, top + 0.2), (mast - 0.1, 0.3), (vary(-0.9, -0.6), 0.3)])
    elif rig == 1:  # a square sail
        low, half = vary(0.05, 0.25), vary(0.55, 0.8)
        pen.polygon(
            SECOND,
            [
                (mast - half * 0.8, top + 0.15),
                (mast + half * 0.8, top + 0.15),
                (mast + half, low),
                (mast - half, low),
            ],
        )
        pen.line(DETAIL, [(mast - half * 0.9, -0.35), (mast + half * 0.9, -0.35)], vary(0.1, 0.25))
    else:  # one large triangle, with a flag
        pen.polygon(SECOND, [(mast - 0.08, top + 0.1), (mast - 0.08, 0.3), (-0.95, 0.3)])
        pen.polygon(DETAIL, [(mast, top), (mast + 0.45, top + 0.14), (mast, top + 0.28)])
    bow, stern = vary(0.55, 0.85), vary(-0.85, -0.55)
    pen.polygon(BODY, [(-0.99, 0.42), (0.99, 0.42), (bow, 0.97), (stern, 0.97)])
    pen.polygon(DETAIL, [(-0.99, 0.42), (0.99, 0.42), (0.93, 0.57), (-0.93, 0.57)])
    if style.random() < 0.5:
        for x in (-0.4, 0.0, 0.4):
            pen.oval(SPOT, x, 0.75, 0.1, 0.1)


def _car(pen: Pen, style: Random) -> None:
    vary = style.uniform
    roof = vary(-0.75, -0.5)
    back, front = vary(-0.95, -0.6), vary(0.35, 0.8)
    left, right = back + vary(0.02, 0.3), front - vary(0.1, 0.35)
    pen.polygon(SECOND, [(back, 0.05), (left, roof), (right, roof), (front, 0.05)])
    hood = vary(-0.1, 0.05)
    pen.polygon(
        BODY, [(-1.0, 0.02), (-0.9, hood), (0.85, hood), (1.0, 0.15), (1.0, 0.52), (-1.0, 0.52)]
    )
    windows = style.randrange(2, 4)
    edges = [left + 0.06 + (right - left - 0.06) * k / windows for k in range(windows + 1)]
    for start, end in pairwise(edges):
        pen.box(DETAIL, start, roof + 0.12, end - 0.08, hood - 0.02)
    radius = vary(0.24, 0.32)
    wheels = (-0.62, 0.58) if style.random() < 0.7 else (-0.66, -0.05, 0.6)
    for x in wheels:
        pen.oval(DETAIL, x, 0.55, radius, radius * 1.25)
        pen.oval(SPOT, x, 0.55, radius * 0.45, radius * 0.55)
    pen.oval(THIRD, 0.9, 0.24, 0.1, 0.1)
    if style.random() < 0.4:
        pen.line(THIRD, [(-0.8, 0.27), (0.7, 0.27)], 0.09)


def _face(pen: Pen, style: Random) -> None:
    vary = style.uniform
    width, height = vary(0.66, 0.85), vary(0.78, 0.92)
    ears = style.randrange(3)
    for side in (-1, 1):
        if ears == 0:
            pen.oval(BODY, side * width, 0.1, 0.16, 0.24)
        elif ears == 1:
            pen.polygon(SECOND, [(side * 0.75, -0.98), (side * 0.8, -0.2), (side * 0.2, -0.65)])
        else:
            pen.oval(SECOND, side * 0.68, -0.65, 0.3, 0.3)
    pen.oval(BODY, 0.0, 0.08, width, height)
    if style.random() < 0.6:
        pen.polygon(THIRD, [(-0.62, -0.3), (-0.45, -0.8), (0.45, -0.8), (0.62, -0.3), (0.2, -0.52)])
    gaze, apart, eyes = vary(-0.07, 0.07), vary(0.26, 0.38), vary(-0.15, 0.05)
    for x in (-apart, apart):
        pen.oval(DETAIL, x, eyes, 0.19, vary(0.13, 0.2))
        pen.oval(SPOT, x + gaze, eyes, 0.09, 0.1)
    if style.random() < 0.5:
        pen.polygon(SECOND, [(0.0, 0.1), (0.13, 0.4), (-0.13, 0.4)])
    else:
        pen.oval(SECOND, 0.0, 0.28, 0.15, 0.11)
    mouth = style.randrange(3)
    if mouth == 0:
        pen.oval(DETAIL, 0.0, 0.64, vary(0.18, 0.36), vary(0.06, 0.16))
    elif mouth == 1:
        pen.curve(DETAIL, (-0.35, 0.5), (0.0, 0.88), (0.35, 0.5), 0.1)
    else:
        pen.box(DETAIL, -0.3, 0.56, 0.3, 0.74)
        pen.line(SPOT, [(-0.3, 0.65), (0.3, 0.65)], 0.05)


def _fish(pen: Pen, style: Random) -> None:
    vary = style.uniform
    height, spread = vary(0.4, 0.62), vary(0.35, 0.7)
    pen.polygon(SECOND, [(-0.4, 0.0), (-1.0, -spread), (vary(-0.9, -0.7), 0.0), (-1.0, spread)])
    back = vary(-0.3, 0.1)
    pen.polygon(SECOND, [(-0.35, -0.2), (back, -0.95), (0.5, -0.25)])
    pen.polygon(SECOND, [(-0.2, 0.25), (back, 0.9), (0.3, 0.3)])
    pen.oval(BODY, 0.18, 0.0, 0.8, height)
    marks = style.randrange(3)
    if marks == 0:
        for x in (-0.3, 0.0):
            pen.line(THIRD, [(x, -height * 0.7), (x + vary(-0.05, 0.15), height * 0.7)], 0.14)
    elif marks == 1:
        for x, y in ((-0.3, -0.05), (-0.02, 0.2), (0.05, -0.2)):
            pen.oval(THIRD, x, y, 0.11, 0.11)
    pen.polygon(DETAIL, [(0.25, 0.02), (-0.05, vary(0.15, 0.4)), (0.3, 0.28)])
    pen.oval(DETAIL, 0.58, -0.14, 0.17, 0.17)
    pen.oval(SPOT, 0.62, -0.14, 0.08, 0.08)
    pen.line(DETAIL, [(0.68, 0.2), (0.95, 0.1)], 0.08)


def _flower(pen: Pen, style: Random) -> None:
    vary = style.uniform
    bend, y = vary(-0.2, 0.2), vary(-0.42, -0.34)
    pen.curve(THIRD, (0.0, y), (bend, 0.4), (vary(-0.1, 0.1), 1.0), 0.13)
    for side in (-1, 1):
        if style.random() < 0.85:
            turn = side * vary(-0.8, -0.2)
            pen.oval(SECOND, bend / 2 + side * 0.42, vary(0.45, 0.75), 0.42, 0.16, turn)
    petals, start = style.randrange(5, 10), vary(0, 1)
    long, wide = vary(0.28, 0.34), min(0.24, 1.3 / petals)
    for k in range(petals):
        turn = (k + start) * math.tau / petals
        x, dy = 0.36 * math.cos(turn), 0.36 * math.sin(turn)
        pen.oval(BODY, x * 1.2, y + dy, long, wide, turn)
    size = vary(0.18, 0.28)
    pen.oval(DETAIL, 0.0, y, size, size)
    if style.random() < 0.5:
        pen.oval(SPOT, 0.0, y, size * 0.5, size * 0.5)


def _house(pen: Pen, style: Random) -> None:
    vary = style.uniform
    side, eaves = vary(0.66, 0.85), vary(-0.25, -0.05)
    if style.random() < 0.7:
        x = style.choice((-0.55, 0.35))
        pen.box(THIRD, x, -0.95, x + 0.24, -0.3)
    pen.box(BODY, -side, eaves - 0.05, side, 0.98)
    flat = vary(0.0, 0.5)
    pen.polygon(SECOND, [(-1.0, eaves), (-flat, -0.92), (flat, -0.92), (1.0, eaves)])
    door = style.choice((-0.42, -0.14, 0.14))
    pen.box(THIRD, door, 0.35, door + 0.34, 0.98)
    pen.oval(SPOT, door + 0.26, 0.68, 0.06, 0.06)
    for x in (-0.55, 0.15):
        for y in (0.02, 0.5):
            if y > 0.2 and abs(x + 0.05 - door) < 0.42:
                continue
            pen.box(DETAIL, x, y, x + 0.36, y + 0.3)


def _mug(pen: Pen, style: Random) -> None:
    vary = style.uniform
    rim, foot = vary(-0.45, -0.3), vary(0.4, 0.6)
    reach = vary(0.85, 1.0)
    pen.curve(SECOND, (0.4, rim + 0.25), (reach * 1.45, 0.2), (0.35, 0.75), 0.2)
    pen.polygon(BODY, [(-0.85, rim), (0.6, rim), (foot, 0.97), (-foot - 0.25, 0.97)])
    pen.oval(BODY, -0.125, rim, 0.725, 0.2)
    pen.oval(THIRD, -0.125, rim, 0.6, 0.13)
    decor = style.randrange(3)
    if decor == 0:
        y = vary(0.1, 0.4)
        pen.box(DETAIL, -0.72, y, 0.48, y + vary(0.12, 0.3))
    elif decor == 1:
        for x in (-0.5, -0.12, 0.26):
            pen.oval(DETAIL, x, vary(0.25, 0.5), 0.14, 0.14)
    else:
        pen.polygon(DETAIL, [(-0.12, 0.65), (-0.45, 0.25), (-0.12, 0.35), (0.2, 0.25)])
    for x in (-0.4, -0.05, 0.25)[: style.randrange(1, 4)]:
        pen.line(THIRD, [(x, rim - 0.18), (x + 0.12, rim - 0.36)], 0.1)
        pen.line(THIRD, [(x + 0.12, rim - 0.36), (x - 0.02, -0.98)], 0.1)


def _rocket(pen: Pen, style: Random) -> None:
    vary = style.uniform
    half, length = vary(0.3, 0.42), vary(0.8, 1.0)
    pen.polygon(THIRD, [(-0.26, 0.5), (vary(-0.1, 0.1), length), (0.26, 0.5)])
    reach, drop = vary(0.7, 0.98), vary(0.55, 0.85)
    for side in (-1, 1):
        pen.polygon(
            SECOND,
            [(side * half * 0.9, -0.05), (side * reach, drop), (side * half * 0.6, 0.5)],
        )
    pen.polygon(
        BODY,
        [
            (-half * 0.65, -0.6),
            (half * 0.65, -0.6),
            (half, -0.1),
            (half * 0.7, 0.58),
            (-half * 0.7, 0.58),
            (-half, -0.1),
        ],
    )
    pen.polygon(SECOND, [(0.0, -1.0), (half * 0.75, -0.5), (-half * 0.75, -0.5)])
    pen.oval(SECOND, 0.0, -0.62, half * 0.6, 0.2)
    for y in (-0.22, 0.18)[: style.randrange(1, 3)]:
        pen.oval(DETAIL, 0.0, y, 0.19, 0.17)
        pen.oval(SPOT, 0.0, y, 0.1, 0.09)
    if style.random() < 0.5:
        pen.box(DETAIL, -half * 0.75, 0.42, half * 0.75, 0.54)


def _tree(pen: Pen, style: Random) -> None:
    vary = style.uniform
    wide = vary(0.1, 0.18)
    pen.polygon(THIRD, [(-wide, 0.0), (wide, 0.0), (wide * 1.7, 1.0), (-wide * 1.7, 1.0)])
    kind = style.randrange(3)
    if kind == 0:  # a fir
        for top, half in ((-0.1, 0.9), (-0.5, 0.72), (-0.98, 0.52)):
            half *= vary(0.9, 1.05)
            pen.polygon(BODY, [(0.0, top), (half, top + 0.62), (-half, top + 0.62)])
            pen.line(SECOND, [(-half, top + 0.6), (half, top + 0.6)], 0.09)
        pen.oval(DETAIL, 0.0, -0.92, 0.1, 0.1)
        return
    if kind == 1:  # a round crown
        for x, y in ((-0.45, -0.1), (0.45, -0.15), (0.0, -0.55), (0.0, 0.0)):
            pen.oval(BODY, x + vary(-0.08, 0.08), y, vary(0.42, 0.54), vary(0.36, 0.46))
    else:  # branches
        for x, y in ((-0.75, -0.4), (0.75, -0.45), (-0.3, -0.75), (0.35, -0.75)):
            pen.line(THIRD, [(0.0, 0.3), (x, y)], 0.12)
            pen.oval(BODY, x, y, vary(0.25, 0.38), vary(0.25, 0.34))
    for _ in range(style.randrange(2, 6)):
        pen.oval(DETAIL, vary(-0.6, 0.6), vary(-0.7, 0.1), 0.1, 0.1)


OBJECTS: dict[str, Callable[[Pen, Random], None]] = {
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
