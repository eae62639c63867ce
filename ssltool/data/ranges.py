"""Ranges of values that become 0 to 255, as they are typed."""

from __future__ import annotations

from ssltool.errors import UsageError

AUTO = "auto"
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
    if len(numbers) != 2 * channels or not all(low < high for low, high in pairs):
        raise UsageError(
            f"--value-range {text}: expected auto, LOW,HIGH or {channels} such pairs, each "
            "ascending"
        )
    return pairs
