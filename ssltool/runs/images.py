"""Open the training images that options name: as RGB, or as they are."""

from __future__ import annotations

from dataclasses import asdict

from ssltool.data.channels import Channels, measured
from ssltool.data.ranges import AUTO
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.registry import open_source
from ssltool.distributed.collectives import from_main
from ssltool.runs.options import RunOptions


def open_training_images(options: RunOptions, source: Source | None = None) -> Source:
    """The images of a new run; the ranges of their values are the same in all processes.

    Args:
        options: What was asked for.
        source: The images; opened from the options unless given.

    Raises:
        UsageError: They are not there, or the ranges are wrong.
        DataError: None of them has the channels asked for.
    """
    if source is None:
        source = open_source(options.data, split="train", arrays=options.as_they_are)
    if not options.as_they_are:
        return source
    opened, channels = source, options.channels or 3
    how = from_main(lambda: asdict(measured(opened, channels, options.value_range or AUTO)))
    return as_they_are(source, Channels.restored(how))
