"""``ssltool backbones``: list the networks that can be trained."""

from __future__ import annotations

from collections.abc import Mapping

from ssltool.cli._early import announce
from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json, print_table
from ssltool.encoders.catalog import BACKBONES, Backbone
from ssltool.encoders.timm_names import PREFIX, check_timm
from ssltool.options import SMALLEST_SIDE, Options, option
from ssltool.runs.tables import Table


class BackbonesOptions(Options):
    """What is listed of them."""

    method: str | None = option(
        None, "Also list the smallest --image-size for this method, by its default options"
    )
    timm: str | None = option(
        None, "List timm's networks of these names instead, such as 'convnext_*' (extra timm)"
    )


def backbones(options: BackbonesOptions, output: JsonOption) -> None:
    """List the backbones with their parameters, stages and smallest images."""
    listed = BACKBONES if options.timm is None else _of_timm(options.timm)
    sizes = _sizes(options.method, listed) if options.method else None
    rows = [
        {
            "name": name,
            "parameters": known.parameters,
            "smallest_input": max(SMALLEST_SIDE, known.smallest),
            **({} if sizes is None else {"smallest_image_size": sizes[name]}),
            "stages": list(known.stages),
        }
        for name, known in listed.items()
    ]
    if output.as_json:
        print_json(rows)
        return
    columns = ["backbone", "stages", "parameters", "smallest input"]
    cells = [
        [
            name,
            _ends(known.stages),
            f"{known.parameters / 1e6:.1f} M",
            f"{max(SMALLEST_SIDE, known.smallest)} px",
        ]
        for name, known in listed.items()
    ]
    if sizes is not None:
        columns.append(f"--image-size for {options.method}")
        for row, line in zip(rows, cells, strict=True):
            size = row["smallest_image_size"]
            line.append("none" if size is None else f"{size} or more")
    print_table(Table("", columns, cells, text_columns=2))


def _of_timm(pattern: str) -> dict[str, Backbone]:
    check_timm(f"{PREFIX}any")
    announce()
    from ssltool.encoders.timm_catalog import find_networks

    return find_networks(pattern)


def _sizes(method: str, listed: Mapping[str, Backbone]) -> dict[str, int | None]:
    from ssltool.methods.registry import find_options

    find_options(method)  # its name is checked before torch is imported
    announce()
    from ssltool.methods.backbones import smallest_image_sizes

    return smallest_image_sizes(method, listed)


def _ends(stages: tuple[str, ...]) -> str:
    return ", ".join(stages) if len(stages) <= 3 else f"{stages[0]}, {stages[1]} ... {stages[-1]}"


command = command_of(
    "backbones",
    backbones,
    examples=[
        "ssltool backbones",
        "ssltool backbones --method cpc",
        "ssltool backbones --timm 'convnext_*'",
    ],
    loads_torch=False,
)
