"""The numbers of a run in words, with their units, which are read from their names.

``..._db`` is in decibels, ``..._nats`` in nats; ``loss``, ``log_...``, ``..._similarity`` and what
concerns the training itself are plain numbers; everything else is a share, shown in percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Unit = Literal["fraction", "dB", "nats", ""]

_PLAIN = {
    "loss",
    "step",
    "epoch",
    "grad_norm",
    "lr",
    "images_per_s",
    "effective_rank",
    "feature_std",
}


def is_share(name: str) -> bool:
    """Whether a number is a share 0..1, to be shown in percent."""
    return not (
        name in _PLAIN or name.startswith("log_") or name.endswith(("_similarity", "_nats", "_db"))
    )


def written(name: str, value: float) -> str:
    """A number with its unit."""
    if is_share(name):
        # A small share, such as the chance of picking one of thousands, keeps two digits.
        return f"{value:.1%}" if value >= 0.01 or value <= 0 else f"{100 * value:.2g}%"
    if name.endswith("_nats"):
        return f"{value:.3f} nats"
    return f"{value:.1f} dB" if name.endswith("_db") else f"{value:.4g}"


def titled(name: str) -> str:
    """A number's name without its unit."""
    return name.removesuffix("_db").removesuffix("_nats").replace("_", " ")


def headed(name: str) -> str:
    """A number's name with its unit, for a chart or a column."""
    units = {"_db": ", dB", "_nats": ", nats"}
    unit = next(
        (words for end, words in units.items() if name.endswith(end)),
        ", %" if is_share(name) else "",
    )
    return titled(name) + unit


def said(name: str, value: float, chance: Mapping[str, float]) -> str:
    """A number in words, with its unit and what knowing nothing gives."""
    known = f" (chance {written(name, chance[name])})" if name in chance else ""
    return f"{titled(name)} {written(name, value)}{known}"
