"""``ssltool embed``: the features of images, in a file."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import OutputOptions, print_json
from ssltool.console import echo, stderr_console
from ssltool.probing.options import EmbedOptions


def embed(options: EmbedOptions, output: OutputOptions) -> None:
    """Write the features of images to a file, with their names and classes."""
    from ssltool.probing.embed import embed as run

    result = run(options, stderr_console(output.quiet or output.as_json))
    if result is None:  # of several processes the first one prints
        return
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    grid = "" if result.grid is None else f"{result.grid[0]}x{result.grid[1]} vectors of "
    size = f"{grid}{result.dim} dimensions each ({result.stage})"
    echo(f"{result.file}: {result.images} images, {size}")
    if result.skipped:
        echo(f"{len(result.skipped)} images could not be read and are left out", err=True)


command = command_of(
    "embed",
    embed,
    divided=True,
    examples=[
        "ssltool embed --weights runs/jigsaw-1 --data photos/ --to photos.npz",
        "ssltool embed --weights runs/jigsaw-1 --data photos/ --patches --to maps.npz",
        "ssltool embed --weights runs/jigsaw-1 --data photos/ --to photos.npz --devices 4",
    ],
)
