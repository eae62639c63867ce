"""Configuration of a run: declared once, merged from flags, file and preset.

``RunConfig`` is what was asked for. ``ResolvedConfig`` has every field decided, by
`ssltool.runs.resolve.resolve`, from the data and the machine; it is what ``run.json`` holds and
what the trainer is built from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ssltool.data.ranges import parse_range
from ssltool.data.specs import absolute_path, absolute_spec
from ssltool.documents import DocumentError, cut, read_json, read_toml
from ssltool.encoders.catalog import check_name
from ssltool.errors import UnknownNameError, UsageError
from ssltool.methods.options import DataInfo, MethodOptions
from ssltool.methods.registry import find_options, methods_with
from ssltool.options import (
    declared,
    describe_faults,
    flag_of,
)
from ssltool.runs.options import ResolvedOptions, RunOptions
from ssltool.runs.records import RunRecord

ModelT = TypeVar("ModelT", bound=BaseModel)

LENGTHS = ("budget", "epochs", "steps")
"""Options that say how long to train; at most one is given."""

_RUN_FORMAT = RunRecord.model_fields["format"].default


class RunConfig(BaseModel):
    """What was asked for: a method with options of the run and of the method.

    Attributes:
        method: Name of the method.
        run: Options of the run; which of them were given is kept.
        task: Options of the method; likewise.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    method: str
    run: RunOptions
    task: MethodOptions

    @classmethod
    def merged(
        cls,
        method: str,
        given: Mapping[str, Any],
        preset: str | None = None,
        config: Path | None = None,
    ) -> Self:
        """Merge preset, configuration file and given options (the later wins) and validate them.

        Args:
            method: Name of the method.
            given: Options by field name, of the run and of the method alike.
            preset: One of the method's presets.
            config: TOML or JSON file of options by name, or a run's ``run.json``.

        Raises:
            UsageError: Unknown or invalid options; one line naming every faulty flag.
        """
        values: dict[str, Any] = {}
        if preset is not None:
            values |= _preset(method, preset)
            size = str(given.get("image_size"))  # of the command line, as it was typed
            if size.isdecimal() and int(size) > (values.get("load_size") or math.inf):
                del values["load_size"]  # it was larger than the preset's own image size
        if config is not None:
            values = _over(values, _from_file(config, method))
        return cls.validated(method, _over(values, given))

    @classmethod
    def validated(cls, method: str, values: Mapping[str, Any]) -> Self:
        """Divide options between run and method and validate both, all faults in one line.

        Raises:
            UsageError: Unknown or invalid options.
        """
        models = (RunOptions, find_options(method))
        flags = {name: flag_of(model, name) for model in models for name in model.model_fields}
        for name in values:
            if name not in flags:
                raise unknown_option(method, "--" + cut(name).replace("_", "-"), flags.values())
        parts, faults = [], []
        for model in models:
            try:
                own = {name: value for name, value in values.items() if name in model.model_fields}
                parts.append(model.model_validate(own))
            except ValidationError as error:
                faults.append(describe_faults(model, error))
        if faults:
            raise UsageError("; ".join(faults))
        config = cls(method=method, run=parts[0], task=parts[1])
        lengths = [f"--{name}" for name in LENGTHS if getattr(config.run, name) is not None]
        if len(lengths) > 1:
            raise UsageError(f"{' and '.join(lengths)} say how long to train; type one of them")
        if config.run.backbone is not None:
            check_name(config.run.backbone)
        _check_channels(config)
        return config

    def require_data(self) -> None:
        """Make sure that images were named: only a run that is resumed knows its own.

        Raises:
            UsageError: They were not.
        """
        if not self.run.data:
            raise UsageError(
                "--data is required: type --data DIR, or --data demo for synthetic images"
            )

    def with_preset(self, preset: str) -> Self:
        """A copy with the options of a preset where none were given.

        Raises:
            UnknownNameError: The method has no such preset.
        """
        given = {name: value for name, value in self.given().items() if value is not None}
        return self.validated(self.method, _over(_preset(self.method, preset), given))

    def with_run(self, **changes: Any) -> Self:
        """A copy with other options of the run, which then count as given."""
        return self.model_copy(update={"run": self.run.model_copy(update=changes)})

    def absolute(self) -> Self:
        """A copy whose paths name the same files from any folder."""
        return self.model_copy(update={"run": _absolute(self.run), "task": _absolute(self.task)})

    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {
            **self.run.model_dump(exclude_unset=True),
            **self.task.model_dump(exclude_unset=True),
        }

    def arguments(self) -> list[str]:
        """The options that were given, as they would be typed."""
        words: list[str] = []
        for part in (self.run, self.task):
            for name, value in part.model_dump(mode="json", exclude_unset=True).items():
                words += _typed(type(part), name, value)
        return words


class ResolvedConfig(BaseModel):
    """Everything that decides the course of a run.

    Attributes:
        method: Name of the method.
        run: Options of the run, all decided.
        task: Options of the method, all decided.
        data: Statistics of the images that the method receives.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    method: str
    run: ResolvedOptions
    task: MethodOptions
    data: DataInfo

    def options(self) -> dict[str, Any]:
        """All options by name, in JSON types; paths are absolute."""
        run, task = _absolute(self.run), _absolute(self.task)
        return {**run.model_dump(mode="json"), **task.model_dump(mode="json")}

    @classmethod
    def restored(cls, method: str, options: Mapping[str, Any], data: DataInfo) -> Self:
        """Rebuild what `options` wrote.

        Raises:
            UsageError: They are not all resolved, or not the method's.
        """
        task = find_options(method)
        own = {name: value for name, value in options.items() if name in task.model_fields}
        rest = {name: value for name, value in options.items() if name not in own}
        run = _valid(ResolvedOptions, rest)
        if run.image_size != data.image_size:
            raise UsageError(f"--image-size {run.image_size}: the data are of {data.image_size} px")
        return cls(method=method, run=run, task=_valid(task, own), data=data)


def _valid(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(describe_faults(model, error)) from error


def unknown_option(method: str, flag: str, flags: Iterable[str]) -> UsageError:
    """The error that a method has no such option; says which methods have it.

    Args:
        method: Name of the method.
        flag: As typed, such as ``--temperature``.
        flags: Those that exist.
    """
    lists = f"'ssltool pretrain {method} --help' lists"
    name = flag.lstrip("-").replace("-", "_")
    owners = methods_with(name) or methods_with(name.removeprefix("no_"))
    if not owners:
        return UnknownNameError("option", flag, flags, hint=f"{lists} them")
    *first, last = owners
    named = f"{', '.join(first)} and {last}" if first else last
    return UsageError(
        f"{flag} belongs to {named}, not to {method}; {lists} the options of {method}"
    )


def _preset(method: str, name: str) -> Mapping[str, Any]:
    presets = find_options(method).presets
    if name not in presets:
        raise UnknownNameError(f"{method} preset", name, presets)
    return presets[name]


def _over(values: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """Options with newer ones over them; a newer length replaces an older one of any kind."""
    if any(newer.get(name) is not None for name in LENGTHS):
        values = {name: value for name, value in values.items() if name not in LENGTHS}
    return {**values, **newer}


def _absolute(options: ModelT) -> ModelT:
    """A copy with absolute paths in the options that were given."""
    changed: dict[str, Any] = {}
    for name in options.model_fields_set:
        value = getattr(options, name)
        if isinstance(value, Path):
            changed[name] = Path(absolute_path(str(value)))
        elif declared(type(options), name).get("images"):
            changed[name] = tuple(map(absolute_spec, value))
    return options.model_copy(update=changed)


def _check_channels(config: RunConfig) -> None:
    """Refuse ranges without channels, and files read as they are by a method of colors.

    Raises:
        UsageError: With what to type.
    """
    run = config.run
    if run.value_range is not None:
        if run.channels is None:
            raise UsageError(
                f"--value-range {run.value_range}: type --channels N too, the number of channels "
                "that the files have"
            )
        parse_range(run.value_range, run.channels)
    if run.as_they_are and config.task.needs_color:
        raise UsageError(
            f"--channels {run.channels}: {config.method} learns from the colors of RGB images; "
            "type 'ssltool pretrain npid' or another method"
        )


def _typed(model: type[BaseModel], name: str, value: Any) -> list[str]:
    """One option as words of a command line; none for a value that cannot be typed."""
    flag, about = flag_of(model, name), declared(model, name)
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        joined = ",".join(map(str, value))
        return [flag, joined] if about.get("comma") else [w for v in value for w in (flag, str(v))]
    return [flag, str(value)]


def _from_file(path: Path, method: str) -> dict[str, Any]:
    """Options of a TOML or JSON file; a ``run.json`` holds them under ``options``."""
    try:
        document = read_json(path) if path.suffix == ".json" else read_toml(path)
    except DocumentError as error:
        raise UsageError(
            f"--config {path}: {error}; TOML or JSON of options by name is expected"
        ) from error
    if not isinstance(document, dict):
        raise UsageError(f"--config {path}: a table of options is expected, such as 'steps = 100'")
    number = document.get("format", _RUN_FORMAT)
    if "options" in document and number != _RUN_FORMAT:
        raise UsageError(
            f"--config {path} has format {cut(str(number))} and this ssltool reads format "
            f"{_RUN_FORMAT}; write its options to a TOML file"
        )
    named = document.get("method", method)
    if not isinstance(named, str):
        raise UsageError(f"--config {path}: method should be a name, such as {method!r}")
    if named != method:
        raise UsageError(
            f"--config {path} is for {cut(named)}; type 'ssltool pretrain {cut(named)} "
            f"--config {path}'"
        )
    options = document.get("options", {k: v for k, v in document.items() if k != "method"})
    if not isinstance(options, dict):
        raise UsageError(f"--config {path}: options should be a table")
    return {name: value for name, value in options.items() if name != "out" and value is not None}
