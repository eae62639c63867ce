"""The trackers of ``--track``: TensorBoard, MLflow, Weights & Biases; none of them ends a run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ssltool.atomic import atomic_file
from ssltool.documents import DocumentError, read_json, validated
from ssltool.errors import SslToolError, UsageError
from ssltool.runs.options import TrackerName
from ssltool.training.tracking.tracker import TrackedRun, Tracker

TRACKING = "tracking.json"
_CLASSES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "WandB"}


class _Tracked(BaseModel):
    """``tracking.json``.

    Attributes:
        id: Of the run, in the stores of the trackers.
        steps: Tracker -> the last step that it was told of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"[0-9a-f]{32}")
    steps: dict[str, Annotated[int, Field(ge=-1)]]


def require_packages(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        UsageError: The first of them.
    """
    for name in names:
        if find_spec(name) is None:
            raise UsageError(f"--track {name} needs {name}; type pip install 'ssltool[{name}]'")


class Trackers:
    """Tells several trackers of a run. One that fails is warned of once, and left out from then on.

    A resumed run goes on in each store where it was: steps that a killed run took again and the
    tracker knows are not told twice. They are the same steps, unless the run was given another
    length in between.

    Args:
        names: Which trackers.
        folder: The run folder.
        options: Every resolved option, by name.
        chance: Metric -> chance level.
        start: Steps taken before, by the run that is resumed.
        warn: Takes what failed, and why.
    """

    def __init__(
        self,
        names: Sequence[TrackerName],
        folder: Path,
        options: Mapping[str, object],
        chance: Mapping[str, float],
        start: int,
        warn: Callable[[str, Exception], None],
    ) -> None:
        self._folder, self._warn = folder, warn
        self._trackers: dict[str, Tracker] = {}
        if not names:
            return
        self._id, self._steps = _tracked(folder) if start else (uuid.uuid4().hex, {})
        # TensorBoard hides the steps that are taken again by itself.
        self._known: dict[str, int] = {n: self._steps.get(n, -1) for n in names}
        if "tensorboard" in names:
            self._known["tensorboard"] = -1
        for name in names:
            run = TrackedRun(folder, options, chance, start, self._id, self._known[name])
            self._attempt(name, lambda name=name, run=run: self._begin(name, run))  # type: ignore[misc]

    def line(self, line: Mapping[str, float]) -> None:
        """Tell of a line of ``metrics.jsonl``."""
        step = int(line["step"])
        told = [name for name in self._trackers if step > self._known[name]]
        if not told:
            return
        # Before they are told: a kill in between loses a line, and doubles none.
        self._steps |= dict.fromkeys(told, step)
        self._attempt("", self._write)
        metrics = {name: value for name, value in line.items() if name != "step"}
        for name in told:
            self._attempt(name, lambda name=name: self._trackers[name].line(metrics, step))  # type: ignore[misc]

    def figure(self, figure: str, path: Path, step: int) -> None:
        """Tell of a figure that was drawn."""
        for name in [name for name in self._trackers if step > self._known[name]]:
            self._attempt(name, lambda n=name: self._trackers[n].figure(figure, path, step))  # type: ignore[misc]

    def close(self, *, finished: bool) -> None:
        """Let them write what is left."""
        for name in list(self._trackers):
            self._attempt(name, lambda name=name: self._trackers[name].close(finished=finished))  # type: ignore[misc]

    def _begin(self, name: str, run: TrackedRun) -> None:
        module = import_module(f"ssltool.training.tracking.{name}")
        self._trackers[name] = getattr(module, _CLASSES[name])(run)

    def _write(self) -> None:
        document = _Tracked(id=self._id, steps=self._steps).model_dump()
        with atomic_file(self._folder / TRACKING) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        """Do something with a tracker, or warn and go on without it."""
        try:
            action()
        except Exception as error:
            self._trackers.pop(name, None)
            self._warn(f"no more tracking by {name}" if name else f"no {TRACKING}", error)


def _tracked(folder: Path) -> tuple[str, dict[str, int]]:
    """The run's id and last steps in the stores; new ones if it was not tracked before."""
    try:
        found = validated(_Tracked, read_json(folder / TRACKING))
    except (DocumentError, SslToolError, OSError):
        return uuid.uuid4().hex, {}
    return found.id, dict(found.steps)
