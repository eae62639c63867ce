"""Run folders: what `pretrain` writes and everything else reads back.

::

    runs/jigsaw-1/
      run.json             resolved options, versions, data facts; ``--config run.json`` repeats the
      run metrics.jsonl        one line per --log-every steps encoder.safetensors  the newest
      encoder checkpoints/         whole training states, to resume from figures/            the
      data, the task and the answers, at the start and at each checkpoint tensorboard/         the
      same numbers and images, with --tensorboard skipped.txt          images that could not be
      read, with reasons probe.json           what `probe` measured last, if it was asked
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

import ssltool
from ssltool.atomic import atomic_file
from ssltool.errors import CheckpointError, SslToolError, UsageError
from ssltool.methods.base import DataInfo, Method
from ssltool.methods.registry import find_method
from ssltool.runs import checkpoint
from ssltool.runs.config import Choice, validated

RUN_FILE = "run.json"
WEIGHTS = "encoder.safetensors"
SKIPPED = "skipped.txt"


@dataclass(frozen=True)
class Run:
    """A run folder, read back.

    Attributes:
        folder: Where it is.
        choice: Method and resolved options.
        info: What the method was told of the data.
        fingerprint: Of the data.
        facts: What the task was built from, see `Method.facts`.
        precision: Number format the run settled on.
    """

    folder: Path
    choice: Choice
    info: DataInfo
    fingerprint: str
    facts: dict[str, Any]
    precision: str


def write_run(
    run: Run, precision_reason: str, description: str, chance_levels: dict[str, float]
) -> None:
    """Write ``run.json``; chance levels are said there for those who read it without building the
    method.
    """
    document = {
        "format": 1,
        "ssltool": ssltool.__version__,
        "method": run.choice.method,
        "options": run.choice.flat(),
        "precision": {"name": run.precision, "reason": precision_reason},
        "data": {
            "description": description,
            "fingerprint": run.fingerprint,
            **dataclasses.asdict(run.info),
        },
        "task": run.facts,
        "chance": chance_levels,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "platform": platform.platform(),
        },
    }
    with atomic_file(run.folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_run(folder: Path) -> Run:
    """Read a run folder's ``run.json``.

    Raises:
        UsageError: There is no such run folder.
        CheckpointError: Its ``run.json`` is damaged or of another version.
    """
    if folder.is_file():  # a run's own weights file stands for its run
        folder = folder.parent
    path = folder / RUN_FILE
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a run folder: it has no {RUN_FILE}; 'ssltool pretrain' makes one"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        data = dict(document["data"])
        fingerprint = data.pop("fingerprint")
        data.pop("description")
        info = DataInfo.from_json(data)
        name, options = document["method"], document["options"]
        facts, precision = document["task"], document["precision"]["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); start the run again") from error
    return Run(
        folder, validated(name, find_method(name), options), info, fingerprint, facts, precision
    )


def build_method(choice: Choice, info: DataInfo) -> Method[Any, Any]:
    """Build the untrained method of resolved options; weights come from torch's global generator."""
    run, cls = choice.run, find_method(choice.method)
    assert run.backbone and run.channels, "resolved"
    assert run.stem != "auto", "resolved"
    encoder = cls.build_encoder(
        choice.task, info, run.backbone, stem=run.stem, in_channels=run.channels
    )
    return cls(choice.task, encoder, info)


def load_method(run: Run) -> Method[Any, Any]:
    """Build a run's method with the weights of its newest checkpoint, in evaluation mode.

    Raises:
        CheckpointError: The run has no checkpoint yet, or it cannot be read.
    """
    place = checkpoint.newest(run.folder)
    if place is None:
        raise CheckpointError(
            f"{run.folder} has no checkpoint yet; let it run, or start it again with 'ssltool "
            "pretrain'"
        )
    method = build_method(run.choice, run.info)
    checkpoint.load_model(place, method)
    return method.eval()


def chance(folder: Path) -> dict[str, float]:
    """Chance levels as a run wrote them; of a run of an older version, of the untrained method.

    Nothing is known of a damaged run, or of one whose method is not installed here.
    """
    try:
        document = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        found = document.get("chance")
        if found is None:
            run = read_run(folder)
            found = build_method(run.choice, run.info).chance
        return {str(name): float(value) for name, value in found.items() if math.isfinite(value)}
    except (OSError, ValueError, TypeError, AttributeError, SslToolError):
        return {}


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == len(found):
            return found
    raise UsageError(f"{folders[0]} is named twice; name each run once")


def new_folder(out: Path | None, method: str, overwrite: bool) -> Path:
    """The folder of a new run: ``out``, or the next free ``runs/METHOD-N``.

    Raises:
        UsageError: ``out`` is a file, or has something in it and may not be overwritten.
    """
    if out is None:
        return Path("runs") / f"{method}-{max(_numbers(method), default=0) + 1}"
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a new folder")
    if out.is_dir() and any(
        path.suffix != ".tmp" for path in out.iterdir()
    ):  # what a killed run left is no run
        if not overwrite:
            raise UsageError(
                f"--out {out} is not empty; type --resume to continue it, --overwrite to replace "
                "it, or another folder"
            )
        if not (out / RUN_FILE).is_file():
            raise UsageError(
                f"--out {out} is not empty and not a run folder, so --overwrite leaves it alone; "
                "name another folder"
            )
    return out


def folder_to_resume(out: Path | None, method: str) -> Path:
    """The run to continue: ``out``, or the newest ``runs/METHOD-N``.

    Raises:
        UsageError: There is nothing to continue.
    """
    if out is None:
        numbers = _numbers(method)
        if not numbers:
            raise UsageError(
                f"--resume: no runs/{method}-N here; type --out RUN, or drop --resume to start a "
                "run"
            )
        out = Path("runs") / f"{method}-{max(numbers)}"
    if not (out / RUN_FILE).is_file():
        raise UsageError(f"--resume: {out} holds no run; drop --resume to start one there")
    return out


def _numbers(method: str) -> list[int]:
    tails = [path.name.removeprefix(f"{method}-") for path in Path("runs").glob(f"{method}-*")]
    return [int(tail) for tail in tails if tail.isdecimal()]
