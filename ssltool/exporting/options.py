"""Options of ``ssltool export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssltool.errors import UsageError
from ssltool.options import Options, option, refuse_unused, weights_option

InputForm = Literal["lightness", "lab", "rgb"]
Format = Literal["safetensors", "timm", "onnx", "torch"]

_FILES = {".onnx", ".pt2", ".pt", ".pth", ".bin", ".ckpt", ".npz"}


class ExportOptions(Options):
    """What to export, where to, in which formats and input form."""

    weights: Path = weights_option()
    form: InputForm | None = option(
        None,
        "Input color space of an encoder trained on lightness; rgb is an approximation",
        panel="Model",
    )
    fixed_norm: bool = option(
        False,
        "Normalize by the data's mean and deviation where training normalized each image by its "
        "own; an approximation that timm and transformers can express",
        panel="Model",
    )
    to: Path = option(
        ...,
        "Folder to write, or one .safetensors file",
        panel="Output",
        needed="--to FOLDER, or --to FILE such as encoder.safetensors",
    )
    formats: tuple[Format, ...] = option(
        ("safetensors",),
        "Formats of the folder; timm is what timm and transformers open, torch is a torch.export "
        "archive",
        panel="Output",
        flag="--format",
        comma=True,
        min_length=1,
    )
    uint8: bool = option(
        False,
        "onnx and torch take uint8 RGB images: color conversion and normalization are inside",
        panel="Output",
    )
    with_projection: bool = option(
        False,
        "Also write the projection of npid, beside the encoder: FILE.projection.safetensors",
        panel="Output",
    )
    with_head: bool = option(
        False,
        "Also write the whole model of colorization or context-encoder, for 'ssltool predict': "
        "FILE.task.safetensors",
        panel="Output",
    )
    license: str = option(
        "unknown",
        "License of the weights that the model card states, such as apache-2.0 or cc-by-4.0",
        panel="Output",
        pattern=r"^[a-z0-9][a-z0-9.+-]*$",
        max_length=60,
    )
    data: tuple[str, ...] = option(
        (),
        "Images on which features are compared; may be repeated; automatic: those of the run, "
        "else synthetic ones",
        panel="Data",
    )

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if not {"onnx", "torch"} & set(self.formats):
            refuse_unused(self, ["uint8"], "without --format onnx or torch")
        if "safetensors" not in self.formats:
            unused = ["with_projection", "with_head"]
            refuse_unused(self, unused, "without --format safetensors")
        check_target(self.to, self.formats)


def check_target(to: Path, formats: tuple[Format, ...]) -> None:
    """Make sure that a path can be that of an export in these formats.

    Raises:
        UsageError: It names a file and a folder is needed, or it exists.
    """
    listed = ",".join(formats)
    if to.suffix == ".safetensors":
        if formats != ("safetensors",):
            raise UsageError(
                f"--to {to} is one file, and --format {listed} needs a folder; type "
                f"--to {to.with_suffix('')}"
            )
        return
    if to.suffix in _FILES:
        raise UsageError(
            f"--to {to}: a folder is expected, or a file that ends in .safetensors; type "
            f"--to {to.with_suffix('')}"
        )
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise UsageError(f"--to {to} exists already; name another folder, or remove it")
