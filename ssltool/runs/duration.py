"""Durations as typed and as printed: ``90s``, ``20m``, ``2h``, ``1h30m``."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile("".join(rf"(?:([0-9]{{1,6}}(?:\.[0-9]{{1,6}})?){u})?" for u in _UNITS))


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``20m`` or ``1h30m``.

    Raises:
        ValueError: It has another form, or is zero.
    """
    match = _FORM.fullmatch(text.strip().lower())
    parts = match.groups() if match else ()
    seconds = sum(
        float(number) * unit
        for number, unit in zip(parts, _UNITS.values(), strict=False)
        if number is not None
    )
    if not seconds:
        raise ValueError("a time with its unit, such as 90s, 20m, 2h or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration to two figures, in the unit a person would choose: ``25 s``, ``4.2 days``."""
    for least, unit, name in ((172_800, 86_400, "days"), (5400, 3600, "h"), (90, 60, "min")):
        if seconds >= least:
            count = seconds / unit
            return f"{count:.0f} {name}" if count >= 9.95 else f"{count:.1f} {name}"
    if seconds >= 9.95 or not seconds:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2g} s"
