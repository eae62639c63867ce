"""Ranges of values that become 0 to 255, as they are typed."""

from __future__ import annotations

from ssltool.errors import UsageError

AUTO = "auto"
_SMALLEST, _LARGEST = 1e-35, 1e38  # of float32, with room for 255
Range = tuple[float, float]


def parse_range(text: str, channels: int) -> tuple[Range, ...] | None:
    """The ranges that were typed; None for ``auto``.

    Args:
        text: ``auto``, ``LOW,HIGH`` for all channels, or so for each of them in turn.
        channels: N.

    Raises:
        UsageError: It is something else.
    """
    if text == AUTO:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2:
        numbers *= channels
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) != 2 * channels or not all(_is_range(*pair) for pair in pairs):
        raise UsageError(
            f"--value-range {text}: expected auto, LOW,HIGH or {channels} such pairs, each finite "
            "and ascending"
        )
    return pairs


def _is_range(low: float, high: float) -> bool:
    """Whether the values between them become finite levels, in float32 too."""
    return low < high and _SMALLEST <= high - low <= _LARGEST and max(-low, high) <= _LARGEST
