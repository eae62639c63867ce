"""Colors that remain distinct with any color vision (Okabe & Ito 2008)."""

from __future__ import annotations

BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#777777"
PALETTE = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
