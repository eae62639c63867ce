"""Checkpoints: the training state as safetensors and JSON.

``checkpoints/step-0001200/`` holds ``model.safetensors`` (encoder, head and buffers),
``optimizer.safetensors``, with ``--ema`` ``average.safetensors``, and ``state.json``; with
``--probe-data`` also ``encoder-best.safetensors`` as it was then. The folder is written under a
temporary name, flushed and renamed, so a kill at any moment leaves the previous checkpoints as they
were. No random state is kept: every random number of a step is a function of the seed, the epoch or
step, and the image.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ssltool.arrays import open_tensors
from ssltool.atomic import atomic_folder, remove_folder
from ssltool.distributed.collectives import is_main
from ssltool.documents import DocumentError, cut, read_json
from ssltool.errors import CheckpointError

_FOLDER = "checkpoints"
_NAME = "step-{:07d}"
_NUMBER = re.compile(r"step-([0-9]{7,})")
_MODEL, _OPTIMIZER, _AVERAGE = (f"{name}.safetensors" for name in ("model", "optimizer", "average"))
_DIGITS = 9  # of the number of a parameter
_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_MOMENTUM = {"momentum_buffer"}


def save(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    extra: dict[str, Any],
    keep: int,
    average: nn.Module | None = None,
    files: Sequence[Path] = (),
) -> Path:
    """Save the state after ``step`` steps, then delete all but the newest ``keep`` checkpoints.

    All processes call it, since sharded buffers are gathered for it; the first of them writes.

    Args:
        run: Run folder.
        step: Steps taken so far.
        model: The whole method: encoder, head, buffers.
        optimizer: Its state tensors go to safetensors, its settings to JSON.
        extra: Further state in JSON types, such as the loss scaler's.
        keep: How many checkpoints to leave, at least 1.
        average: The moving average of the encoder, if there is one.
        files: Kept under their names as they are now; those that write them replace them whole.

    Raises:
        DiskFullError: No space; the older checkpoints are intact.
        CheckpointError: The folder cannot be written to.
    """
    path = run / _FOLDER / _NAME.format(step)
    tensors = model.state_dict()
    # One exists already after an interrupt right behind a regular checkpoint.
    if not is_main() or path.is_dir():
        return path
    state_tensors, settings = _flatten(optimizer)
    with atomic_folder(path) as folder:
        save_file(_ready(tensors), folder / _MODEL)
        save_file(_ready(state_tensors), folder / _OPTIMIZER)
        if average is not None:
            save_file(_ready(average.state_dict()), folder / _AVERAGE)
        for file in files:
            _link(file, folder / file.name)
        state = {"step": step, "optimizer": settings, **extra}
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    prune(run, keep)
    return path


def _link(file: Path, to: Path) -> None:
    """A second name of a file, which takes no space; a copy where there are no hard links."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, at least 1."""
    for old in checkpoints(run)[:-keep]:
        remove_folder(old)


def checkpoints(run: Path) -> list[Path]:
    """All complete checkpoints of a run, by number of steps. Other files and folders beside them
    are left alone.
    """
    saved: dict[int, Path] = {}
    for path in (run / _FOLDER).glob("step-*"):
        match = _NUMBER.fullmatch(path.name)
        if match and path.name == _NAME.format(int(match[1])) and path.is_dir():
            saved[int(match[1])] = path
    return [saved[step] for step in sorted(saved)]


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    saved = checkpoints(run)
    return saved[-1] if saved else None


def step_of(path: Path) -> int:
    """Steps that were taken before a checkpoint was saved."""
    return int(path.name.removeprefix("step-"))


def load_model(path: Path, model: nn.Module) -> None:
    """Load a checkpoint's encoder, head and buffers, strictly.

    Raises:
        CheckpointError: A file is missing or damaged, or the tensors are those of another model.
    """
    _load_tensors(path, _MODEL, model)


def _load_tensors(path: Path, file: str, model: nn.Module) -> None:
    tensors = _read(path / file)
    expected = model.state_dict()
    for name in sorted(tensors.keys() & expected.keys()):
        if tensors[name].dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path} is damaged: {name} is {tensors[name].dtype} instead of "
                f"{expected[name].dtype}; {_advice(path)}"
            )
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"{path} holds another model than its run.json describes: {first}"
        ) from error


def load(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    like: Mapping[str, Any] | None = None,
    average: nn.Module | None = None,
) -> dict[str, Any]:
    """Load a checkpoint into a model and its optimizer.

    Args:
        path: Folder of the checkpoint.
        model: The whole method.
        optimizer: Its optimizer.
        like: What the further state should look like: the same names, and numbers where it has
            numbers.
        average: The moving average of the encoder, if the run keeps one.

    Returns:
        What `save` was given as ``step`` and ``extra``.

    Raises:
        CheckpointError: A file is missing or damaged, or the tensors are those of another model.
    """
    load_model(path, model)
    if average is not None:
        _load_tensors(path, _AVERAGE, average)
    tensors = _read(path / _OPTIMIZER)
    try:
        state = _read_state(path)
        for name, value in (like or {}).items():
            if not _is_same_kind(state.get(name), value):
                raise DocumentError(f"state.json has no such {name} as this run writes")
        _restore(optimizer, tensors, state.pop("optimizer"))
    except DocumentError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {_advice(path)}") from error
    return state


def _read_state(path: Path) -> dict[str, Any]:
    """The document ``state.json`` of a checkpoint.

    Raises:
        DocumentError: It is damaged, or of another step than its folder.
    """
    try:
        state = read_json(path / "state.json")
    except DocumentError as error:
        raise DocumentError(f"state.json: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("optimizer"), dict):
        raise DocumentError("state.json has no optimizer")
    step = state.get("step")
    if type(step) is not int or _NAME.format(step) != path.name:
        raise DocumentError(f"state.json is of step {step!r:.50} instead of that of its folder")
    return state


def _ready(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that safetensors accepts: on the host, contiguous, sharing no memory."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with open_tensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except DocumentError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {_advice(path.parent)}") from error


def _advice(path: Path) -> str:
    return f"remove {path} to use an older one"


def _flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into named tensors and JSON: ``3.momentum_buffer`` belongs to the
    fourth parameter.
    """
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is not None:
                scalars[f"{index}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "scalars": scalars}


def _restore(optimizer: Optimizer, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Load what `_flatten` made.

    Raises:
        DocumentError: It is not the state of this optimizer.
    """
    groups, scalars = settings.get("groups"), settings.get("scalars")
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or not isinstance(scalars, dict):
        raise DocumentError("state.json has no settings of the optimizer")
    if len(groups) != len(own) or not all(map(_is_like, groups, own)):
        raise DocumentError("state.json has the settings of another optimizer")
    groups = [
        {name: group.get(name, value) for name, value in settings.items()}
        for settings, group in zip(own, groups, strict=True)
    ]
    state = _state_by_parameter(optimizer, {**tensors, **scalars})
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # Loading keeps a saved tensor's plain layout; the optimizer's buffers follow their parameters
    # (channels-last).
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _state_by_parameter(
    optimizer: Optimizer, values: Mapping[str, object]
) -> dict[int, dict[str, Any]]:
    """Values by ``INDEX.NAME``, as `_flatten` names them, by parameter.

    Raises:
        DocumentError: They are not the state of this optimizer.
    """
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    state: dict[int, dict[str, Any]] = {}
    for key, value in values.items():
        index, _, name = key.partition(".")
        number = int(index) if index.isdecimal() and len(index) < _DIGITS else -1
        parameter = parameters.get(number)
        if parameter is None or not _belongs(name, value, parameter):
            raise DocumentError(
                f"{cut(key)} is no state of one of its {len(parameters)} parameters"
            )
        state.setdefault(number, {})[name] = value
    names = _ADAM if isinstance(optimizer, AdamW) else _MOMENTUM
    if any(part.keys() != names for part in state.values()):
        raise DocumentError(
            f"the optimizer's state of a parameter is not {', '.join(sorted(names))}"
        )
    return state


def _is_like(group: object, own: dict[str, Any]) -> bool:
    """Whether settings are those of an optimizer's own group, as far as they are there.

    Another version of torch may have other settings.
    """
    return (
        isinstance(group, dict)
        and group.get("params") == own["params"]
        and all(_is_same_kind(group[name], own[name]) for name in group.keys() & own.keys())
    )


def _is_same_kind(value: object, own: object) -> bool:
    if isinstance(own, dict):
        return (
            isinstance(value, dict)
            and value.keys() == own.keys()
            and all(_is_same_kind(value[name], own[name]) for name in own)
        )
    if isinstance(own, tuple | list):
        return (
            isinstance(value, list)
            and len(value) == len(own)
            and all(map(_is_same_kind, value, own))
        )
    if isinstance(own, bool) or own is None:
        return type(value) is type(own)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _belongs(name: str, value: object, parameter: Tensor) -> bool:
    """Whether a value can be in the state of a parameter: a count of steps, or a tensor like it."""
    if isinstance(value, Tensor):
        shape = () if name == "step" else parameter.shape
        return value.shape == shape and value.is_floating_point() and bool(value.isfinite().all())
    return name == "step" and _is_same_kind(value, 0)
