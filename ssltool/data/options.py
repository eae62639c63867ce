"""Options of ``ssltool data check``, ``pack`` and ``index``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssltool.errors import UsageError
from ssltool.options import LARGEST_CHANNELS, Options, option, refuse_unused, seed_option

ImageFormat = Literal["auto", "jpeg", "png", "raw"]
LARGEST_RAW_SIZE = 128
"""Side in pixels up to which images are packed decoded: larger ones take more disk than time."""
_SOURCES = (
    "Folders, tar shards, zip files, manifests, Parquet files, videos, hf:NAME, "
    "URLs, torchvision:NAME@ROOT or demo[:N]"
)


class SourceOptions(Options):
    """Which images; they may be typed with or without ``--data``."""

    positional: tuple[str, ...] = option(
        (), _SOURCES, panel="Data", positional=True, metavar="[DATA]..."
    )
    data: tuple[str, ...] = option((), "The same, as for pretrain; may be repeated", panel="Data")

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if not self.specs:
            raise UsageError(
                "--data is required: type --data DIR, or --data demo for synthetic images"
            )

    @property
    def specs(self) -> tuple[str, ...]:
        """The sources, in the form that `ssltool.data.sources.registry.open_source` takes."""
        return self.positional + self.data


class CheckOptions(SourceOptions):
    """How images are checked."""

    channels: int | None = option(
        None,
        "Read files as they are, with so many channels; automatic: as RGB",
        panel="Data",
        ge=1,
        le=LARGEST_CHANNELS,
    )


class PackOptions(SourceOptions):
    """How images are packed into shards."""

    size: int | None = option(
        None,
        "Shorter side in pixels, to which larger images are resized; automatic: 256, for raw the "
        "image size that pretrain would take",
        panel="Images",
        ge=8,
    )
    format: ImageFormat = option(
        "auto",
        "auto: tar shards of PNG up to 64 px, of JPEG above; raw: decoded squares of up to 128 px",
        panel="Images",
    )
    quality: int = option(90, "JPEG quality", panel="Images", ge=1, le=100)
    framing: Literal["square", "whole"] = option(
        "whole",
        "With --format raw: center squares alone, or also the whole images that are not square, "
        "stretched, as random crops are cut from them",
        panel="Images",
    )
    to: Path = option(..., "Folder for the shards", panel="Output", needed="--to DIR, a new folder")
    per_shard: int = option(2000, "Images in a shard", panel="Output", ge=1)
    seed: int = seed_option("Random seed of the order of the images", panel="Output")
    overwrite: bool = option(False, "Remove shards that are there already", panel="Output")
    workers: int | None = option(
        None, "Threads that decode images; automatic: from the cores", panel="Run", ge=1
    )

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        super().refuse_contradictions()
        if self.format == "raw":
            refuse_unused(self, ("quality", "seed"), "on raw shards, which keep pixels and order")
            if self.size is not None and self.size > LARGEST_RAW_SIZE:
                raise UsageError(
                    f"--format raw is for images of up to {LARGEST_RAW_SIZE} px: decoded images "
                    f"of {self.size} px take {3 * self.size**2 / 1000:,.0f} kB each; type "
                    "--format jpeg"
                )
        else:
            refuse_unused(self, ("framing",), f"with --format {self.format}")


class IndexOptions(Options):
    """Which shards to index."""

    folder: Path = option(
        ..., "Folder of .tar files", panel="Data", positional=True, needed="a folder of .tar files"
    )
