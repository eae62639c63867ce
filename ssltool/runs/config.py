"""Configuration of a run: declared once, merged from flags, file and preset, and resolved once.

``RunConfig`` is what was asked for. ``ResolvedConfig`` has every field decided from the data and
the machine; it is what ``run.json`` holds and what the trainer is built from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ssltool.data.ranges import AUTO, parse_range
from ssltool.data.specs import absolute_path, absolute_spec
from ssltool.documents import DocumentError, cut, read_json, read_toml
from ssltool.encoders.catalog import check_name
from ssltool.encoders.metadata import LARGEST_GRID
from ssltool.errors import UnknownNameError, UsageError
from ssltool.methods.options import DataInfo, MethodOptions
from ssltool.methods.registry import find_method, find_options, methods_with
from ssltool.options import (
    LARGEST_SIDE,
    SMALLEST_SIDE,
    declared,
    describe_faults,
    flag_of,
)
from ssltool.runs.options import ResolvedOptions, RunOptions
from ssltool.runs.records import RunRecord

if TYPE_CHECKING:
    from ssltool.methods.base import EncoderInput

ModelT = TypeVar("ModelT", bound=BaseModel)

LENGTHS = ("budget", "epochs", "steps")
"""Options that say how long to train; at most one is given."""

_RUN_FORMAT = RunRecord.model_fields["format"].default
_SMALL = 64  # px: up to here images get the small stem and, by default, the small ResNet
_IMAGES_SEEN = (
    100_000  # by an automatic run: minutes on a laptop for small images, an hour for large
)


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


def resolve(config: RunConfig, data: DataInfo) -> ResolvedConfig:
    """Decide every option left open from the images, the machine and the number of processes.

    Raises:
        UsageError: The options do not fit the images or each other.
    """
    from ssltool.device import choose_device  # imports torch
    from ssltool.distributed.collectives import world_size
    from ssltool.encoders.registry import check_known

    asked, task = config.run, config.task.with_defaults(data)
    if not data.rgb:
        task, _ = task.without_color()
    check_probe(asked)
    if asked.backbone is not None:
        check_known(asked.backbone)
    inputs = find_method(config.method).inputs(task, data)
    _check_load_size(asked.load_size, config.method, inputs, data.image_size)
    _check_inputs(inputs, data.image_size)
    small = data.image_size <= _SMALL
    backbone = asked.backbone or ("resnet10_w32" if small else "resnet18")
    processes = world_size()
    most = 2 ** max(0, (data.count // processes).bit_length() - 1)
    batch = asked.batch_size or min(256 if small else 64, most)
    per_step = batch * processes * asked.accumulate
    epochs, steps = _length(asked, data.count, per_step)
    rates = {"sgd": 0.1 * per_step / 256, "lars": 4.8 * per_step / 256, "adamw": 1e-3}
    decays = {"sgd": 1e-4, "lars": 1e-4, "adamw": 0.05}
    decided = {
        "image_size": data.image_size,
        "backbone": backbone,
        "framing": _framing(asked.framing, config.method, inputs),
        "channels": _channels(asked.channels, config.method, inputs),
        "value_range": asked.value_range or (AUTO if asked.as_they_are else None),
        "stem": _stem(asked.stem, backbone, small),
        "batch_size": batch,
        "devices": processes,
        "all_reduce": asked.all_reduce
        or ("overlap" if choose_device(asked.device).type == "cuda" else "single"),
        "epochs": None,
        "budget": None,
        "steps": steps,
        "lr": asked.lr or rates[asked.optimizer],
        "weight_decay": decays[asked.optimizer]
        if asked.weight_decay is None
        else asked.weight_decay,
        "warmup": epochs / 20 if asked.warmup is None else asked.warmup,
        "checkpoint_every": asked.checkpoint_every or max(100, min(data.count // per_step, 2000)),
    }
    run = ResolvedOptions(**{**asked.model_dump(), **decided})
    return ResolvedConfig(
        method=config.method,
        run=run,
        task=task,
        data=data.for_batches_of(batch * processes),
    )


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


def check_probe(options: RunOptions) -> None:
    """Refuse an interval of online kNN evaluations without images for them.

    Raises:
        UsageError: ``--probe-every`` without ``--probe-data``.
    """
    if options.probe_every is not None and not options.probe_data:
        raise UsageError("--probe-every: no effect without --probe-data; type both or neither")


def steps_of(epochs: float, images: int, images_per_step: int) -> int:
    """Optimizer steps in a number of passes over the data."""
    return max(1, round(epochs * max(1, images // images_per_step)))


def _length(asked: RunOptions, count: int, per_step: int) -> tuple[float, int]:
    """Epochs and steps of the run."""
    if asked.epochs is not None:
        epochs = asked.epochs
    elif asked.steps is not None:
        epochs = asked.steps / max(1, count // per_step)
    else:
        epochs = min(200, max(10, round(_IMAGES_SEEN / count)))
    return epochs, asked.steps or steps_of(epochs, count, per_step)


def _check_load_size(asked: int | None, name: str, inputs: EncoderInput, image_size: int) -> None:
    if asked is None or asked == image_size:
        return
    if not inputs.random_crop:
        raise UsageError(
            f"--load-size {asked}: {name} cuts no random crops; omit it, or type --image-size "
            f"{asked}"
        )
    if asked < image_size:
        raise UsageError(
            f"--load-size {asked} is less than the images' {image_size} px; type {image_size} or "
            "more, or omit it"
        )


def _framing(asked: str | None, name: str, inputs: EncoderInput) -> str:
    if asked == "whole" and not inputs.random_crop:
        raise UsageError(
            f"--framing whole: {name} reads center squares, it cuts no random crops; omit it"
        )
    return asked or ("whole" if inputs.random_crop else "square")


def _check_inputs(inputs: EncoderInput, read_size: int) -> None:
    """Refuse sizes that weights files do not hold."""
    if not SMALLEST_SIDE <= inputs.feature_size <= LARGEST_SIDE:
        raise UsageError(
            f"--patch-input: whole images would be encoded at {inputs.feature_size} px, not "
            f"{SMALLEST_SIDE} to {LARGEST_SIDE}; type a size nearer to --patch"
        )
    if inputs.patch_grid is not None:
        side, stride = inputs.patch_grid
        count = (read_size - side) // stride + 1
        if count > LARGEST_GRID:
            raise UsageError(
                f"--stride {stride}: images of {read_size} px hold {count}x{count} patches, more "
                f"than {LARGEST_GRID}x{LARGEST_GRID}; type a larger one"
            )


def _channels(asked: int | None, name: str, inputs: EncoderInput) -> int:
    if inputs.color_space != "lightness":
        return asked or 3
    if asked == 3:
        raise UsageError(
            f"--channels 3: {name} reads lightness, which is one channel; omit it or type "
            "--channels 1"
        )
    return 1


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


def _stem(asked: str, backbone: str, small: bool) -> str:
    if asked != "auto":
        return asked
    if backbone.startswith(("resnet10_", "resnet20", "resnet32", "resnet44", "resnet56")):
        return "small"
    resnet = re.match(r"(timm/)?(resnet|resnext|wide_resnet)\d", backbone)
    return "small" if small and resnet else "imagenet"


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
