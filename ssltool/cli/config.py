"""``ssltool config METHOD``: every option as commented TOML, for ``pretrain --config``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from ssltool.cli._flags import command as command_from
from ssltool.cli._flags import take
from ssltool.cli._lazy import methods_group
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.options import Options, option


class ConfigOptions(Options):
    """Which defaults are printed."""

    preset: str | None = option(None, "Named set of defaults", panel="Options")


def build(name: str) -> TyperCommand:
    """The command of one method."""
    from ssltool.methods.registry import find_options

    def run(typed: dict[str, Any]) -> None:
        from ssltool.runs.config import RunConfig
        from ssltool.runs.template import template

        options, output = take(ConfigOptions, typed), take(JsonOption, typed)
        config = RunConfig.merged(name, {}, options.preset)
        if output.as_json:
            tables = (config.run, config.task)
            given = {k: v for part in tables for k, v in part.model_dump(mode="json").items()}
            print_json({"method": name, **given})
            return
        for line in template(config).splitlines():
            echo(line)

    presets = find_options(name).presets
    return command_from(
        name,
        run,
        [ConfigOptions, JsonOption],
        help=f"Print all options of {name} as commented TOML.",
        examples=[
            f"ssltool config {name} > {name}.toml",
            *(f"ssltool config {name} --preset {preset}" for preset in presets),
            f"ssltool pretrain {name} --data ~/photos --config {name}.toml",
        ],
    )


command = methods_group("Print a method's options as commented TOML.", build)
