"""Data statistics pass: properties of the images that a method receives before the first step."""

from __future__ import annotations

from ssltool.data.sources.base import Source, survey
from ssltool.methods.base import DataInfo

_SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256)


def inspect(source: Source, image_size: int | None) -> DataInfo:
    """Compute statistics over a sample of the images, and decide the image size unless given.

    Args:
        source: The images.
        image_size: Side in pixels; None takes the largest usual size that does not enlarge the
            typical image, 28 to 256.
    """
    statistics = survey(source)
    return DataInfo(
        count=statistics.count,
        image_size=image_size or automatic_size(statistics.short_side),
        gray=statistics.gray_fraction == 1.0,
        mean=statistics.mean,
        std=statistics.std,
    )


def automatic_size(short_side: int) -> int:
    """The largest usual image size that does not enlarge the typical image, 28 to 256 px."""
    return max([size for size in _SIZES if size <= short_side], default=_SIZES[0])
