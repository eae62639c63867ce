"""Colors that remain distinct with any color vision (Okabe & Ito 2008)."""

from __future__ import annotations

BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#777777"
GREEN, SKY, YELLOW = "#009e73", "#56b4e9", "#f0e442"
PALETTE = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", SKY, "#000000")
BASELINE = -1
"""Index of the gray that baselines have, beside those of the palette."""


def color_of(index: int) -> str:
    """The color of an index: gray for `BASELINE`, else that of the palette, again after its end."""
    return GRAY if index == BASELINE else PALETTE[index % len(PALETTE)]
