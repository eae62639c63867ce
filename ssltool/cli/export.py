"""``ssltool export``: write an encoder for other libraries."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.exporting.options import ExportOptions


def export(options: ExportOptions, output: JsonOption) -> None:
    """Write the encoder for torchvision, timm, transformers or onnxruntime, which then compute its
    features: they are compared before anything is kept.
    """
    from ssltool.exporting.export import export as run

    values = {name: getattr(options, name) for name in ExportOptions.model_fields}
    result = run(values.pop("weights"), values.pop("to"), **values)
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    echo(f"{result.tensors} tensors, {result.parameters:,} parameters", err=True)
    for note in result.notes:
        echo(note, err=True)
    echo(f"compared on {result.compared_on}:", err=True)
    for each in result.comparisons:
        worst = max(each.outputs.values())
        stages = f", of any stage by {worst:.1e}" if len(each.outputs) > 1 else ""
        echo(
            f"  {each.reader}: features differ by at most {each.difference:.1e} (the largest is "
            f"{each.largest:.3g}){stages}; cosine similarity {each.cosine:.7f} or more",
            err=True,
        )
    if result.similarity is not None:
        echo(
            f"mean cosine similarity to the weights as they were trained: {result.similarity:.4f}",
            err=True,
        )
    for file in result.files:
        echo(file)


command = command_of(
    "export",
    export,
    examples=[
        "ssltool export --weights runs/jigsaw-1 --to encoder.safetensors",
        "ssltool export --weights runs/npid-1 --to exported --format timm,onnx --fixed-norm",
        "ssltool export --weights runs/colorization-1 --to rgb.safetensors --form rgb "
        "--data ~/photos",
    ],
)
