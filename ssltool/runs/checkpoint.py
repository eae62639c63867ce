"""Checkpoints: the training state as safetensors and JSON.

``checkpoints/step-0001200/`` holds ``model.safetensors`` (encoder, head and buffers),
``optimizer.safetensors`` and ``state.json``. The folder is written under a temporary name, flushed
and renamed, so a kill at any moment leaves the previous checkpoints as they were. No random state
is kept: every random number of a step is a function of the seed, the epoch or step, and the image.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ssltool.atomic import atomic_folder
from ssltool.distributed.collectives import is_main
from ssltool.errors import CheckpointError

_FOLDER = "checkpoints"
_NAME = "step-{:07d}"


def save(
    run: Path, step: int, model: nn.Module, optimizer: Optimizer, extra: dict[str, Any], keep: int
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

    Raises:
        DiskFullError: No space; the older checkpoints are intact.
    """
    path = run / _FOLDER / _NAME.format(step)
    tensors = model.state_dict()
    # One exists already after an interrupt right behind a regular checkpoint.
    if not is_main() or path.exists():
        return path
    state_tensors, settings = _flatten(optimizer)
    with atomic_folder(path) as folder:
        save_file(_ready(tensors), folder / "model.safetensors")
        save_file(_ready(state_tensors), folder / "optimizer.safetensors")
        state = {"step": step, "optimizer": settings, **extra}
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoints(run: Path) -> list[Path]:
    """All complete checkpoints of a run, oldest first."""
    return sorted((run / _FOLDER).glob("step-*")) if (run / _FOLDER).is_dir() else []


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    saved = checkpoints(run)
    return saved[-1] if saved else None


def load_model(path: Path, model: nn.Module) -> None:
    """Load a checkpoint's encoder, head and buffers, strictly.

    Raises:
        CheckpointError: A file is missing or damaged, or the tensors are those of another model.
    """
    tensors = _read(path / "model.safetensors")
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"{path} holds another model than its run.json describes: {first}"
        ) from error


def load(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Load a checkpoint into a model and its optimizer; return what `save` was given as ``step``
    and ``extra``.

    Raises:
        CheckpointError: A file is missing or damaged, or the tensors are those of another model.
    """
    load_model(path, model)
    tensors = _read(path / "optimizer.safetensors")
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}/state.json cannot be read: {error}; remove {path} to use an older one"
        ) from error
    _restore(optimizer, tensors, state.pop("optimizer"))
    return state


def _ready(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that safetensors accepts: on the host, contiguous, sharing no memory."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; remove {path.parent} to use an older one"
        ) from error


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
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *settings["scalars"].items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    try:
        optimizer.load_state_dict({"state": state, "param_groups": settings["groups"]})
    except ValueError as error:
        raise CheckpointError(
            f"the checkpoint's optimizer does not fit this model: {error}"
        ) from error
    # Loading keeps a saved tensor's plain layout; the optimizer's buffers follow their parameters
    # (channels-last).
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
