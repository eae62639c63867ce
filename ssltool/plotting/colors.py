"""Colors that remain distinct with any color vision (Okabe & Ito 2008)."""

from __future__ import annotations

BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#777777"
GREEN, SKY, YELLOW = "#009e73", "#56b4e9", "#f0e442"
PALETTE = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", SKY, "#000000")
