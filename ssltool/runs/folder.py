"""Run folders: what ``pretrain`` writes and every other command reads.

::

    runs/jigsaw-1/
      run.json             resolved options, versions, statistics of the data; a valid --config
      metrics.jsonl        one line per --log-every steps
      encoder.safetensors  the newest encoder
      encoder.projection.safetensors  its projection, of npid
      encoder-best.safetensors  the encoder with the best online kNN accuracy, with --probe-data
      checkpoints/         whole training states, to resume from
      figures/             the data, the task, and predictions at each checkpoint
      tensorboard/ mlflow/ wandb/  the same metrics and figures, with --track
      tracking.json        the run in these stores, and how far they are
      skipped.txt          images that could not be read, with reasons
      probe.json           what ``probe`` measured last
      audit.json           what ``audit`` measured last
      .lock                who writes into it, while a run does
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.atomic import translated_os_errors
from ssltool.data.channels import Channels
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.registry import open_source
from ssltool.data.specs import OBJECT
from ssltool.encoders.metadata import Stem
from ssltool.encoders.weights import read_metadata
from ssltool.errors import CheckpointError, DataError, SslToolError, UsageError
from ssltool.methods.base import Method
from ssltool.methods.options import DataInfo, MethodOptions
from ssltool.methods.registry import find_method
from ssltool.plotting.units import format_value
from ssltool.runs import checkpoint, metrics
from ssltool.runs.config import ResolvedConfig
from ssltool.runs.lock import LOCK_FILE
from ssltool.runs.records import RUN_FILE, MetricRecord, Part, RunRecord
from ssltool.runs.tables import Table

WEIGHTS = "encoder.safetensors"
BEST = "encoder-best.safetensors"
SKIPPED = "skipped.txt"
FIGURES = "figures"


class BestWeights(Part):
    """The encoder of a run with the best online kNN accuracy.

    Attributes:
        weights: Its file.
        step: Steps it was trained for.
        knn: Its accuracy on the images of ``--probe-data``, 0..1.
    """

    weights: Path
    step: int
    knn: float

    def __str__(self) -> str:
        return f"{self.weights.name}: kNN accuracy {self.knn:.1%} after {self.step:,} steps"


VALIDATION = "chosen by the probe's images, which are validation data for it and no test set"


def best_weights(folder: Path) -> BestWeights | None:
    """The best encoder of a run folder; None if none is kept.

    Raises:
        WeightsError: Its file is damaged.
    """
    path = folder / BEST
    training = read_metadata(path).training if path.is_file() else None
    if training is None or training.knn is None:
        return None
    return BestWeights(weights=path, step=training.steps, knn=training.knn)


@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    Attributes:
        folder: Where it is.
        record: Its ``run.json``.
        config: The resolved configuration that the record holds.
    """

    folder: Path
    record: RunRecord
    config: ResolvedConfig

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open a run folder, or the one that a weights file lies in.

        Raises:
            UsageError: There is no run.
            CheckpointError: Its ``run.json`` is damaged or of another format.
        """
        path = Path(path)
        folder = path.parent if path.is_file() else path
        if not (folder / RUN_FILE).is_file():
            raise UsageError(
                f"{folder} is not a run folder: it has no {RUN_FILE}; 'ssltool pretrain' makes one"
            )
        record = RunRecord.read(folder / RUN_FILE)
        return cls(folder, record, configuration(record, folder))

    @classmethod
    def open_newest(cls, path: Path | str) -> Run:
        """Open a run by its folder or its newest weights, for what its checkpoints alone hold.

        Raises:
            UsageError: There is no run, or these are not its newest weights.
            CheckpointError: As `open`.
        """
        run = cls.open(path)
        if Path(path).is_file() and Path(path).name != WEIGHTS:
            raise UsageError(
                f"{path} is an encoder alone, and the checkpoints are those of {run.weights.name}; "
                f"type {run.folder}"
            )
        return run

    @property
    def weights(self) -> Path:
        """The file of the newest encoder."""
        return self.folder / WEIGHTS

    def open_images(self, advice: str) -> Source:
        """Open the images that the run was trained on.

        Args:
            advice: What to do where they are gone; ends the message.

        Raises:
            UsageError: They are not where they were, or were no files.
            DataError: There are no images any more.
        """
        data = self.config.run.data
        if data[0].startswith(OBJECT):
            raise UsageError(f"{self.folder} was trained on a dataset object; {advice}")
        try:
            source = open_source(data, split="train", arrays=self.config.run.as_they_are)
            return self.reading(source)
        except (UsageError, DataError) as error:
            kind = UsageError if isinstance(error, UsageError) else DataError
            reason = str(error).partition(";")[0]
            raise kind(f"the images of {self.folder} are gone: {reason}; {advice}") from error

    def reading(self, source: Source) -> Source:
        """A source whose images are read as the run reads its own."""
        return as_they_are(source, Channels.of(self.config.data))

    def trained_on(self, source: Source) -> bool:
        """Whether a source has the run's own images, unchanged and in their order, so that image i
        is image i of the run.
        """
        fingerprint = source.fingerprint(content=self.config.run.content_hash)
        return fingerprint == self.record.source.fingerprint

    def metrics(self) -> list[dict[str, float]]:
        """All lines of ``metrics.jsonl``."""
        return metrics.read(self.folder)

    def _repr_html_(self) -> str:
        """What was trained and the last metrics next to their chance levels, for notebooks."""
        last = (self.metrics() or [{}])[-1]
        rows = [
            [m.name.replace("_", " "), format_value(last[m.name], m.unit), _level(m)]
            for m in self.record.metrics
            if m.name in last
        ]
        config = self.config
        title = (
            f"{config.method}, {config.run.backbone}, step {last.get('step', 0):,} of "
            f"{config.run.steps:,}, {self.record.source.description} ({self.folder})"
        )
        return Table(title, ["metric", "value", "chance level"], rows).html()

    def load_method(self, batch_size: int | None = None) -> Method[Any, Any]:
        """Build the method with the weights of the newest checkpoint, in evaluation mode.

        Args:
            batch_size: Images per batch that it is given, for its chance levels; the run's if None.

        Raises:
            CheckpointError: The run has no checkpoint yet, or it cannot be read.
        """
        newest = checkpoint.newest(self.folder)
        if newest is None:
            raise CheckpointError(
                f"{self.folder} has no checkpoint yet; let it run, or start it again with "
                "'ssltool pretrain'"
            )
        config = self.config
        if batch_size is not None:
            data = config.data.for_batches_of(batch_size)
            config = config.model_copy(update={"data": data})
        method = build_method(config)
        checkpoint.load_model(newest, method)
        return method.eval()


def _level(metric: MetricRecord) -> str:
    return "" if metric.chance is None else format_value(metric.chance, metric.unit)


def configuration(record: RunRecord, folder: Path) -> ResolvedConfig:
    """The resolved configuration of a record.

    Raises:
        CheckpointError: Its options are not those of the method.
        UnknownNameError: The method is not installed.
    """
    find_method(record.method)
    try:
        return ResolvedConfig.restored(record.method, record.options, record.data)
    except (UsageError, ValueError) as error:
        raise CheckpointError(
            f"{folder / RUN_FILE} is of another version of ssltool, or was edited: {error}; "
            f"start a new run, or use its {WEIGHTS} alone"
        ) from error


def build_method(config: ResolvedConfig) -> Method[Any, Any]:
    """Build the untrained method; weights are sampled from torch's global generator."""
    run = config.run
    return build_task(
        config.method, config.task, config.data, run.backbone, stem=run.stem, channels=run.channels
    )


def build_task(
    name: str, task: MethodOptions, data: DataInfo, backbone: str, *, stem: Stem, channels: int
) -> Method[Any, Any]:
    """Build the untrained method from what decides its architecture; see `build_method`."""
    method = find_method(name)
    inputs = method.inputs(task, data)
    encoder = inputs.build_encoder(backbone, stem=stem, in_channels=channels)
    return method(task, encoder, data)


def resume_command(method: str, folder: Path) -> str:
    """What to type into a shell to continue a run."""
    return f"ssltool pretrain {method} --out {shlex.quote(str(folder))} --resume"


def chance(folder: Path) -> dict[str, float]:
    """Chance levels of a run's metrics; none where its ``run.json`` is missing or damaged."""
    try:
        return RunRecord.read(folder / RUN_FILE).chance
    except SslToolError:
        return {}


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"{folders[0]} is named twice; name each run once")


def clear(folder: Path) -> None:
    """Remove all but the lock from a run folder, ``run.json`` last: after a kill it can be
    overwritten again.

    Raises:
        CheckpointError: Something cannot be removed.
    """
    with translated_os_errors(folder):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == RUN_FILE):
            if path.name == LOCK_FILE:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
