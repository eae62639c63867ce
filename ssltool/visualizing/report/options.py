"""Options of a run beside the defaults, or beside the preset that is nearest to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ssltool.errors import SslToolError
from ssltool.methods.registry import find_options
from ssltool.options import flag_of
from ssltool.runs.config import RunConfig
from ssltool.runs.options import RunOptions
from ssltool.runs.records import RunRecord
from ssltool.runs.resolve import resolve
from ssltool.visualizing.report.parts import Table, format_cell

# Where a run reads, writes and computes, and what its summary says anyway.
_NOT_COMPARED = {"data", "out", "devices", "workers"}
# From these others are decided, such as the warm-up from the steps.
_DECISIVE = ("steps", "batch_size", "accumulate", "optimizer", "backbone")


class RunOptionList(NamedTuple):
    """The options of a run.

    Attributes:
        changed: Those that differ from the defaults or the nearest preset; None if the defaults
            are unknown.
        rest: All others, flag -> value.
    """

    changed: Table | None
    rest: Mapping[str, str]


def list_options(record: RunRecord) -> RunOptionList:
    """Divide the options of a run into those that somebody chose and the others."""
    flags = flag_names(record.method)
    values = {name: format_option(value) for name, value in record.options.items()}
    nearest = min(_bases(record), key=lambda base: len(_differing(record, base[1])), default=None)
    if nearest is None:
        return RunOptionList(None, {flags.get(n, n): value for n, value in values.items()})
    title, base = nearest
    names = _differing(record, base)
    changed = Table(
        f"Options that differ from {title}",
        ["option", "this run", title.removeprefix("the ")],
        [[flags.get(name, name), values[name], format_option(base[name])] for name in names],
        note="" if names else f"Every option is that of {title}.",
    )
    rest = {flags.get(name, name): text for name, text in values.items() if name not in names}
    return RunOptionList(changed, rest)


def flag_names(method: str) -> dict[str, str]:
    """Flag by name of the option; of the run alone if the method is not installed."""
    models: list[Any] = [RunOptions]
    with suppress(SslToolError):
        models.append(find_options(method))
    return {name: flag_of(model, name) for model in models for name in model.model_fields}


def _bases(record: RunRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """The defaults for the images of the run, then its method's presets: title and options."""
    try:
        presets = [None, *find_options(record.method).presets]
    except SslToolError:
        return
    for preset in presets:
        try:
            options = _resolved(record, preset)
        except SslToolError:  # it does not fit these images
            continue
        yield f"preset {preset}" if preset else "the defaults", options


def _resolved(record: RunRecord, preset: str | None) -> dict[str, Any]:
    """What the run would have had of a preset; what is decided from other options is decided from
    those of the run.
    """
    config = RunConfig.merged(record.method, {}, preset)
    plain = resolve(config, record.data).options()
    if config.run.image_size:
        plain["image_size"] = config.run.image_size
    own = {name: record.options[name] for name in _DECISIVE if name in record.options}
    decided = resolve(RunConfig.merged(record.method, own, preset), record.data).options()
    return {**decided, **{name: plain[name] for name in (*own, "image_size")}}


def _differing(record: RunRecord, base: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, value in record.options.items()
        if name in base and name not in _NOT_COMPARED and value != base[name]
    ]


def format_option(value: Any) -> str:
    """Text of a JSON value."""
    match value:
        case None:
            return "none"
        case dict():
            return ", ".join(f"{key} {format_option(part)}" for key, part in value.items())
        case list() | tuple():
            return ", ".join(map(format_option, value)) or "none"
        case bool() | float():
            return format_cell(value)
        case _:
            return str(value)
