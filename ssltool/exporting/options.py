"""Options of ``ssltool export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ssltool.options import DeviceName, Options, ending_in, option, refuse_unused

InputForm = Literal["lightness", "lab", "rgb"]


class ExportOptions(Options):
    """What to export, where to, and in which input form."""

    weights: Path = option(
        ...,
        "Run folder or weights file",
        panel="Model",
        needed="--weights RUN, such as runs/jigsaw-1, or a .safetensors file",
    )
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
    to: Annotated[Path, ending_in(".safetensors")] = option(
        ...,
        "File to write, .safetensors",
        panel="Output",
        needed="--to FILE, such as encoder.safetensors",
    )

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if not self.data:
            refuse_unused(self, ["device"], "without --data, whose features it computes")
