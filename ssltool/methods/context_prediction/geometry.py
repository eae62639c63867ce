"""Patch geometry of context prediction, scaled from the paper's 96 px patches.

Doersch, Gupta & Efros 2015, section 3.2. Letters: images of side S, patches of p pixels with gap g
and jitter j.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ssltool.errors import UsageError

SMALLEST_PATCH = 5


class Geometry(NamedTuple):
    """Sizes in pixels.

    Attributes:
        patch: Side p of a patch.
        gap: Pixels g between neighbors before jitter.
        jitter: Reach j of the shift of each patch along each axis.
    """

    patch: int
    gap: int
    jitter: int

    @property
    def pitch(self) -> int:
        """Distance of the corners of neighbors."""
        return self.patch + self.gap

    def span(self, count: int) -> int:
        """Pixels that ``count`` patches in a row need, whatever their jitter."""
        return count * self.patch + (count - 1) * self.gap + 2 * self.jitter


def geometry_of(patch: int) -> Geometry:
    """The paper's gap of half a patch and jitter of 7/96 of one (section 3.2)."""
    return Geometry(patch, math.floor(patch / 2 + 0.5), math.floor(7 * patch / 96 + 0.5))


def geometry(side: int, rule: Literal["paper", "fit3"] = "paper") -> Geometry:
    """The paper's patches, 96 px in images of 300,000, for images of another side; or the largest
    three that fit.

    Raises:
        UsageError: Patches would be under 5 px; the message names the smallest image that works.
    """
    patch = (
        math.floor(96 * side / 300_000**0.5 + 0.5) if rule == "paper" else largest_patch(side, 3)
    )
    if patch < SMALLEST_PATCH:
        needed = geometry_of(SMALLEST_PATCH).span(3)
        raise UsageError(
            f"{side} px images give {patch} px patches but {SMALLEST_PATCH} are needed; type "
            f"--image-size {needed}"
        )
    return geometry_of(patch)


def largest_patch(side: int, count: int) -> int:
    """The largest patch of which ``count`` fit in a row with the paper's gap and jitter; 0 if none
    does.
    """
    return max((p for p in range(1, side + 1) if geometry_of(p).span(count) <= side), default=0)
