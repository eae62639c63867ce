"""Options of ``ssltool export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssltool.options import DeviceName, Options, option

InputForm = Literal["lightness", "lab", "rgb"]


class ExportOptions(Options):
    """What to export, where to, and in which input form."""

    weights: Path = option(..., "Run folder or weights file", panel="Model")
    form: InputForm | None = option(
        None,
        "Input color space of an encoder trained on lightness; rgb is an approximation",
        panel="Model",
    )
    with_projection: bool = option(
        False,
        "Also write the projection of npid, beside the encoder: FILE.projection.safetensors",
        panel="Output",
    )
    data: tuple[str, ...] = option(
        (), "Images on which to measure how close --form comes; may be repeated", panel="Data"
    )
    device: DeviceName = option("auto", "Where the features of --data are computed", panel="Data")
    to: Path = option(..., "File to write, .safetensors", panel="Output")
