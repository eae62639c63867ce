"""Options of the ``ssltool predict`` commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from ssltool.errors import UsageError
from ssltool.options import Options, option, refuse_unused

_Pixels = Annotated[int, Field(ge=0)]


class PredictOptions(Options):
    """What to predict on, and where the images go."""

    files: tuple[Path, ...] = option(
        ...,
        "Image files",
        panel="Data",
        positional=True,
        metavar="IMAGE...",
        needed="image files, such as photos/*.jpg",
        min_length=1,
    )
    weights: Path = option(
        ...,
        "Run folder, or what 'ssltool export --with-head' wrote",
        panel="Model",
        needed="--weights RUN, such as runs/colorization-1, or a folder exported --with-head",
    )
    to: Path = option(
        ...,
        "Folder to write to; each image becomes NAME.png, at its own size",
        panel="Output",
        needed="--to FOLDER",
    )
    overwrite: bool = option(
        False, "Replace files in that folder; never the images themselves", panel="Output"
    )
    batch_size: int = option(16, "Images that are predicted together", panel="Run", ge=1, le=4096)

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        check_targets(self.files, self.to, overwrite=self.overwrite)


class ColorizeOptions(PredictOptions):
    """What to colorize, and how vivid."""

    temperature: float | None = option(
        None,
        "Temperature of the annealed mean: 1 = mean, 0 = mode; automatic: that of the run, 0.38 as "
        "in the paper",
        panel="Task",
        ge=0,
        le=1,
    )


class InpaintOptions(PredictOptions):
    """What to inpaint, and which region."""

    box: tuple[_Pixels, ...] | None = option(
        None,
        "Region to paint, in px of the upright image; automatic: the center, half as long and wide "
        "as the image, or what a network of central holes paints",
        panel="Task",
        comma=True,
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        min_length=4,
        max_length=4,
    )
    mask_file: Path | None = option(
        None,
        "Region to paint: an image as large as those, white where to paint",
        panel="Task",
        flag="--mask",
    )

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        super().refuse_contradictions()
        if self.mask_file is not None:
            refuse_unused(self, ["box"], "with --mask, which is the region")
            if _resolved(self.mask_file) in map(_resolved, targets(self.files, self.to)):
                raise UsageError(f"--to {self.to}: the mask would be replaced; name another folder")
        if self.box is not None and not (self.box[2] and self.box[3]):
            raise UsageError(
                f"--box {','.join(map(str, self.box))}: width and height should be at least 1"
            )


class Prediction(NamedTuple):
    """A subcommand of ``ssltool predict``.

    Attributes:
        options: Its options.
        summary: What it does.
        examples: Command lines.
    """

    options: type[PredictOptions]
    summary: str
    examples: tuple[str, ...]


COMMANDS = {
    "colorize": Prediction(
        ColorizeOptions,
        "Color images by a run of colorization: their lightness, in predicted colors.",
        ("ssltool predict colorize --weights runs/colorization-1 photos/*.jpg --to colored",),
    ),
    "inpaint": Prediction(
        InpaintOptions,
        "Paint a region of images by a run of context-encoder.",
        (
            "ssltool predict inpaint --weights runs/context-encoder-1 cat.jpg --to painted",
            "ssltool predict inpaint --weights runs/context-encoder-1 cat.jpg --to painted "
            "--box 40,20,64,64",
        ),
    ),
}


def _resolved(path: Path) -> Path:
    return path.expanduser().resolve()


def targets(files: Sequence[Path], to: Path) -> list[Path]:
    """The file that each image is written to."""
    return [to / f"{file.stem}.png" for file in files]


def check_targets(files: Sequence[Path], to: Path, *, overwrite: bool) -> None:
    """Make sure that every image gets a file of its own, and that no file is lost.

    Raises:
        UsageError: Two images would be written to one file, or a file exists.
    """
    if to.exists() and not to.is_dir():
        raise UsageError(f"--to {to} is no folder; name another")
    taken: dict[str, Path] = {}
    sources = set(map(_resolved, files))
    for file, target in zip(files, targets(files, to), strict=True):
        other = taken.setdefault(target.name.casefold(), file)
        if other is not file:
            raise UsageError(
                f"{other} and {file} would both be written to {target}; type two commands with "
                "two folders"
            )
        if _resolved(target) in sources:
            raise UsageError(f"--to {to}: {target} is one of the images; name another folder")
        if target.exists() and not overwrite:
            raise UsageError(
                f"{target} exists already; name another folder with --to, or type --overwrite"
            )
