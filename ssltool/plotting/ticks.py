"""Ticks of axes: where they are, and their numbers in few characters."""

from __future__ import annotations

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter

STEPS = (1, 2, 2.5, 5, 10)
"""Between ticks, times a power of ten."""
LONGEST_NAME = 72.0
"""Points of the longest name beside an axis; longer ones are shortened."""


def plain_numbers(axis: Axis) -> None:
    """Write ticks as numbers of their own, without a power or an offset beside the axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def number(value: float) -> str:
    """A tick's number in few characters: ``0.5``, ``20k``, ``1e-5``."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.6g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.6g}k"
    return f"{value:.6g}".replace("e-0", "e-")
