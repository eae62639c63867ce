"""The whole model of a task, encoder and head: from a run, or from a file that needs no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssltool.arrays import DAMAGED, open_tensors
from ssltool.atomic import atomic_file
from ssltool.documents import DocumentError, validated
from ssltool.errors import SslToolError, WeightsError
from ssltool.methods.base import Method
from ssltool.methods.options import MethodOptions
from ssltool.methods.registry import find_options
from ssltool.runs import checkpoint
from ssltool.runs.folder import Run, build_task
from ssltool.runs.task_files import METADATA_KEY, TaskMetadata, read_task_metadata

_AGAIN = "export it again with --with-head"


def save_task(run: Run, path: Path) -> Path:
    """Write the model of a run's newest checkpoint; equal weights give equal bytes.

    Raises:
        CheckpointError: The run has no checkpoint yet, or it is damaged.
        DiskFullError: No space is left.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in run.load_method().state_dict().items()
    }
    newest = checkpoint.newest(run.folder)
    assert newest is not None, "it was loaded"
    config = run.config
    metadata = TaskMetadata(
        method=config.method,
        options=_without_files(config.task),
        data=config.data,
        backbone=config.run.backbone,
        stem=config.run.stem,
        channels=config.run.channels,
        steps=checkpoint.step_of(newest),
    )
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: metadata.to_json()})
    return path


def load_task(path: Path) -> Method[Any, Any]:
    """The model of a task in evaluation mode, on the CPU; torch's global generator is left as it
    was.

    Args:
        path: A run folder or the file of `save_task`, see `ssltool.runs.task_files.find_task`.

    Raises:
        CheckpointError: The run has no checkpoint yet, or it is damaged.
        WeightsError: The file is damaged, or of another model than it says.
    """
    with torch.random.fork_rng(devices=[]):
        if path.is_dir():
            return Run.open(path).load_method()
        metadata = read_task_metadata(path)
        try:
            method = _built(metadata)
            _fill(method, path)
        except (*DAMAGED, DocumentError, SslToolError, AssertionError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise WeightsError(f"{path} cannot be rebuilt: {reason}; {_AGAIN}") from error
    return method.eval()


def _built(metadata: TaskMetadata) -> Method[Any, Any]:
    options = validated(find_options(metadata.method), metadata.options)
    return build_task(
        metadata.method,
        options,
        metadata.data,
        metadata.backbone,
        stem=metadata.stem,
        channels=metadata.channels,
    )


def _fill(method: Method[Any, Any], path: Path) -> None:
    """Load the tensors of a file, which have to be the method's own and finite.

    Raises:
        DocumentError: They are not.
    """
    with open_tensors(path) as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = method.state_dict()
    if wrong := sorted(tensors.keys() ^ expected.keys()):
        raise DocumentError(f"{wrong[0]} is {'unexpected' if wrong[0] in tensors else 'missing'}")
    for name, tensor in tensors.items():
        own = expected[name]
        if (tensor.shape, tensor.dtype) != (own.shape, own.dtype):
            raise DocumentError(f"{name} is {list(tensor.shape)} instead of {list(own.shape)}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DocumentError(f"{name} holds NaN or infinity")
    method.load_state_dict(tensors)


def _without_files(task: MethodOptions) -> dict[str, Any]:
    """Options in JSON types; paths, which are of one machine and used in training alone, are
    left out.
    """
    dumped = task.model_dump(mode="json")
    return {
        name: None if isinstance(getattr(task, name), Path) else value
        for name, value in dumped.items()
    }
