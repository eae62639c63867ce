"""Where the whole model of a task is found: a run folder, or the file beside exported weights.

``encoder.task.safetensors`` lies beside ``encoder.safetensors`` where ``export --with-head``
wrote it. It holds all tensors of the method, encoder and head, under their own names; its metadata
have one entry, ``ssltool``: `TaskMetadata` as JSON. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssltool.documents import DocumentError, parse_json, validated
from ssltool.encoders.files import FILE_NAME, find_weights
from ssltool.encoders.metadata import Stem
from ssltool.errors import UsageError, WeightsError
from ssltool.methods.options import DataInfo
from ssltool.runs.records import RUN_FILE, RunRecord

METADATA_KEY = "ssltool"
PREDICTIONS: Final = {"colorization": "colorize", "context-encoder": "inpaint"}
"""Methods whose task makes images, and the subcommand of ``ssltool predict`` that does it."""

_SUFFIX = ".task.safetensors"


class TaskMetadata(BaseModel):
    """What the file of a task's model says of itself.

    Attributes:
        format: 1.
        method: Name of the method.
        options: Every option of the method; files that it names are left out.
        data: Statistics of the images that it was trained on.
        backbone: Of its encoder.
        stem: Of its encoder.
        channels: Input channels of its encoder.
        steps: Optimizer steps that it was trained for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    method: str = Field(max_length=200)
    options: dict[str, Any]
    data: DataInfo
    backbone: str = Field(max_length=200)
    stem: Stem
    channels: Literal[1, 3]
    steps: int = Field(ge=0)

    def to_json(self) -> str:
        """JSON with sorted keys, so that equal metadata give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, allow_nan=False)


def task_path(weights: Path) -> Path:
    """Where the task's model lies beside a weights file."""
    return weights.with_suffix(_SUFFIX)


def read_task_metadata(file: Path) -> TaskMetadata:
    """What the file of a task's model says of itself.

    Raises:
        WeightsError: It is damaged, or none.
    """
    from ssltool.arrays import open_tensors  # as the command line needs it for such files alone

    try:
        with open_tensors(file, "numpy") as opened:
            text = (opened.metadata() or {}).get(METADATA_KEY, "")
        return validated(TaskMetadata, parse_json(text))
    except DocumentError as error:
        raise WeightsError(
            f"{file} holds no model of a task: {error}; export it again with --with-head"
        ) from error


def find_task(weights: Path | str, prediction: str) -> Path:
    """The run folder, or the file of a task's model, that ``weights`` name.

    Args:
        weights: A run folder, an exported folder or a file of either.
        prediction: What the task should make, of `PREDICTIONS`.

    Raises:
        UsageError: There is no such file, it is an encoder alone, or it makes something else, or
            its images were read as they are.
        WeightsError, CheckpointError: It is damaged.
    """
    weights = Path(weights)
    found = _found(weights)
    if found.is_file():
        model: TaskMetadata | RunRecord = read_task_metadata(found)
    else:
        model = RunRecord.read(found / RUN_FILE)
    method = model.method
    if PREDICTIONS.get(method) != prediction:
        (able,) = (name for name, made in PREDICTIONS.items() if made == prediction)
        raise UsageError(
            f"{weights} is of {method}, which cannot {prediction} images; name one of {able}, as "
            f"'ssltool pretrain {able}' makes"
        )
    refuse_values(weights, model.data)
    return found


def refuse_values(weights: Path, data: DataInfo) -> None:
    """Refuse a model of images that were read as they are, which no PNG file holds.

    Raises:
        UsageError: It is one.
    """
    if data.value_range is not None:
        channels = len(data.value_range)
        raise UsageError(
            f"{weights} is of images read as they are, with {channels} "
            f"channel{'s' * (channels != 1)}: 'ssltool predict' is for RGB images; type "
            "'ssltool visualize predictions' to draw them"
        )


def _found(weights: Path) -> Path:
    if weights.name.endswith(_SUFFIX) and weights.is_file():
        return weights
    if (weights / RUN_FILE).is_file():
        return weights
    file = find_weights(weights)
    if task_path(file).is_file():
        return task_path(file)
    if file.name == FILE_NAME and (file.parent / RUN_FILE).is_file():
        return file.parent
    raise UsageError(
        f"{weights} is an encoder without the head of its task; name its run folder, or export "
        "that again with --with-head"
    )
