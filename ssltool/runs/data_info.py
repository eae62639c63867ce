"""Inspect a source: what a method may know of its images."""

from __future__ import annotations

from ssltool.data.sources.base import Source, survey
from ssltool.methods.base import DataInfo
from ssltool.runs.config import automatic_size


def describe(source: Source, image_size: int | None) -> DataInfo:
    """Look at a sample of the images; the image size is decided here unless given."""
    seen = survey(source)
    size = image_size or automatic_size(seen.short_side)
    return DataInfo(seen.count, size, seen.gray_fraction == 1.0, seen.mean, seen.std)
