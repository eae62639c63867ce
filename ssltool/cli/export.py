"""``ssltool export``: write an encoder for other libraries."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.exporting.options import ExportOptions


def export(options: ExportOptions, output: JsonOption) -> None:
    """Write the encoder under torchvision's key names, load it back and compare."""
    from ssltool.device import choose_device
    from ssltool.exporting.export import export as run

    result = run(
        options.weights,
        options.to,
        form=options.form,
        with_projection=options.with_projection,
        data=options.data,
        device=choose_device(options.device),
    )
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    echo(
        f"{result.path}: {result.tensors} tensors, {result.parameters:,} parameters, "
        "loaded back and compared",
        err=True,
    )
    if result.similarity is not None:
        echo(
            f"features: mean cosine similarity to the lightness form {result.similarity:.4f}",
            err=True,
        )
    echo(result.path)
    if result.projection is not None:
        echo(result.projection)


command = command_of(
    "export",
    export,
    examples=[
        "ssltool export --weights runs/jigsaw-1 --to encoder.safetensors",
        "ssltool export --weights runs/npid-1 --to encoder.safetensors --with-projection",
        "ssltool export --weights runs/colorization-1 --to rgb.safetensors --form rgb "
        "--data ~/photos",
    ],
)
