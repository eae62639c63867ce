"""The disk space that a run needs, known before its first step."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ssltool.distributed.collectives import world_size
from ssltool.errors import DiskFullError

if TYPE_CHECKING:
    from ssltool.training.trainer import Trainer

_STATES = {"sgd": 1, "lars": 1, "adamw": 2}  # tensors that an optimizer keeps per parameter
_FIGURE = 500_000  # bytes of the figure drawn at a checkpoint, and of the two at the start
_LINE = 500  # bytes of a line of metrics


def disk_need(trainer: Trainer) -> int:
    """Bytes that the run folder takes at most, about: ``keep`` checkpoints and the next one, the
    weights twice while they are replaced, the best ones in all of these, figures and metrics.
    """
    options, method = trainer.config.run, trainer.method
    saves = math.ceil(options.steps / options.checkpoint_every)
    parameters, buffers = _size(method.parameters()), 0
    for name, buffer in method.named_buffers():
        shards = world_size() if name in method.sharded_buffers else 1
        buffers += shards * _size([buffer])
    weights = _size(method.encoder.backbone.state_dict().values())
    average = weights if options.ema else 0
    best = weights if options.probe_data else 0
    checkpoint = parameters * (1 + _STATES[options.optimizer]) + buffers + average + best
    return (
        min(options.keep + 1, saves) * checkpoint
        + 2 * (weights + best)
        + (saves + 2) * _FIGURE
        + options.steps // options.log_every * _LINE
    )


def check_disk(trainer: Trainer, folder: Path) -> None:
    """Refuse a run that its disk has no space for. What is in the run folder already counts as
    space: a resumed run needs less, and a run that is replaced leaves room.

    Raises:
        DiskFullError: There is too little.
    """
    need, keep = disk_need(trainer), trainer.config.run.keep
    held = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free + held
    if need > free:
        fewer = "--keep 1, " if keep > 1 else ""
        raise DiskFullError(
            f"the run needs about {format_bytes(need)} of disk, but {folder} has room for "
            f"{format_bytes(free)}; free some, or type {fewer}a larger --checkpoint-every, or "
            "--out on another disk"
        )


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def format_bytes(size: float) -> str:
    """A number of bytes for people: ``3.20 GB``, ``45.1 MB``."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
