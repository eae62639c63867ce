"""Data statistics pass: properties of the images that a method receives before the first step."""

from __future__ import annotations

from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import ChannelSource
from ssltool.data.sources.survey import automatic_size, survey
from ssltool.methods.options import DataInfo

_LEAST_STD = 1 / 255  # of a channel without contrast, by which images are divided


def inspect(source: Source, image_size: int | None) -> DataInfo:
    """Compute statistics over a sample of the images, and decide the image size unless given.

    Args:
        source: The images.
        image_size: Side in pixels; None takes the largest usual size that does not enlarge the
            typical image, 28 to 256.
    """
    statistics = survey(source)
    how = source.how if isinstance(source, ChannelSource) else None
    return DataInfo(
        count=statistics.count,
        image_size=image_size or automatic_size(statistics.short_side),
        gray=source.channels == 1 or (how is None and statistics.gray_fraction == 1.0),
        mean=statistics.mean,
        std=tuple(max(value, _LEAST_STD) for value in statistics.std),
        value_range=how.ranges if how else None,
        value_type=how.value_type if how else None,
    )
