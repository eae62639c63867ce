"""``ssltool data``: check a set of images, pack it into shards, index shards."""

from __future__ import annotations

from collections.abc import Callable

from typer.core import TyperCommand

from ssltool.cli._flags import command_of
from ssltool.cli._lazy import group
from ssltool.cli._output import OutputOptions, print_json
from ssltool.console import echo, stderr_console
from ssltool.data.options import CheckOptions, IndexOptions, PackOptions

_SUMMARIES = {
    "check": "Count classes, sizes, gray, unreadable and duplicate images",
    "pack": "Write resized images to tar or raw shards",
    "index": "Read the headers of tar shards once",
}


def check(options: CheckOptions, output: OutputOptions) -> None:
    """Decode every image; report counts, sizes, gray, unreadable and duplicate images."""
    from ssltool.data.check import check as run

    result = run(options.specs, stderr_console(output.quiet), options.channels)
    if result is None:  # of several processes the first one prints
        return
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    side = result.short_side
    sides = f"{side.min} to {side.max} px, median {side.median}" if side else "none"
    echo(
        f"{result.readable} of {result.images} images readable, shorter side {sides}, "
        f"{result.gray} gray"
    )
    for note in result.notes:
        echo(f"note: {note}")
    for name, count in result.classes.items():
        of = [f"{split} {each.classes[name]}" for split, each in result.splits.items()]
        echo(f"  {name}: {count}" + (f" ({', '.join(of)})" if of else ""))
    for split, each in result.splits.items():
        echo(f"{split}: {each.readable} of {each.images} images readable")
    for name, reason in result.unreadable.items():
        echo(f"unreadable: {name}: {reason}")
    for names in result.duplicates:
        echo(f"near-duplicates (identical at 32 px): {', '.join(names)}")


def pack(options: PackOptions, output: OutputOptions) -> None:
    """Write resized images and their classes to tar shards in WebDataset layout, or decoded."""
    from ssltool.data.pack import pack as run

    result = run(options, stderr_console(output.quiet))
    if result is None:
        return
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    for note in result.notes:
        echo(f"note: {note}")
    for name, reason in result.skipped.items():
        echo(f"skipped: {name}: {reason}")
    for split, images in result.splits.items():
        echo(f"{split}: {images} images")
    echo(
        f"{result.images} images of {len(result.classes)} classes in {result.shards} shards, "
        f"{result.bytes / 1e6:.1f} MB, {result.seconds} s, {len(result.skipped)} skipped -> "
        f"{result.folder}"
    )


def index(options: IndexOptions, output: OutputOptions) -> None:
    """Read the headers of tar shards once and keep them beside the shards.

    Runs on these shards then start at once.
    """
    from ssltool.data.pack import index as run

    result = run(options.folder, stderr_console(output.quiet))
    if output.as_json:
        print_json(result.model_dump(mode="json"))
        return
    for note in result.notes:
        echo(f"note: {note}")
    echo(f"{result.images} images of {len(result.classes)} classes in {result.shards} shards")


_COMMANDS: dict[str, tuple[Callable[..., None], list[str]]] = {
    "check": (check, ["ssltool data check ~/photos"]),
    "pack": (pack, ["ssltool data pack ~/photos --to shards --size 256"]),
    "index": (index, ["ssltool data index shards"]),
}


def _build(name: str) -> TyperCommand:
    function, examples = _COMMANDS[name]
    return command_of(name, function, examples=examples, divided=name in ("check", "pack"))


command = group("Check a set of images, or pack it into shards.", lambda: _SUMMARIES, _build)
