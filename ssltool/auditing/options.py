"""Options of ``ssltool audit``."""

from __future__ import annotations

from pathlib import Path

from ssltool.options import DeviceOption, FigurePath, option, seed_option


class AuditOptions(DeviceOption):
    """What is audited, and on which images."""

    method: str | None = option(
        None, "Method that the run should be of", panel="Model", positional=True
    )
    weights: Path = option(
        ...,
        "Run folder, or the weights file in it",
        panel="Model",
        needed="--weights RUN, such as runs/jigsaw-1",
    )
    data: tuple[str, ...] = option(
        (), "Images; automatic: those of the run; may be repeated", panel="Data"
    )
    images: int = option(
        512, "Largest number of images; standard errors fall with its root", panel="Data", ge=16
    )
    seed: int = seed_option("Seed of the tasks", panel="Data")
    to: FigurePath | None = option(
        None,
        "Figure to write, .png, .svg or .pdf; automatic: RUN/figures/audit.png",
        panel="Output",
    )
