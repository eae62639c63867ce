"""Records on disk: what a run and a probe write, checked when they are read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssltool.atomic import atomic_file
from ssltool.errors import CheckpointError
from ssltool.methods.base import DataInfo

RUN_FILE = "run.json"
PROBE_FILE = "probe.json"

Percent = Annotated[float, Field(ge=0, le=100)]
# Where features come from. A baseline is told by its kind, never by its display text.
FeatureKind = Literal["pretrained", "random_init", "pixels", "majority"]
Variant = Literal["image", "patches"]
Measure = Literal["linear", "knn5", "knn20", "knn200", "svm", "svm_map", "mlp"]


class Record(BaseModel):
    """Base of the documents in a run folder: a checked format number, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a document.

        Raises:
            CheckpointError: It is damaged or of another format; one line names the first fault.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise CheckpointError(f"{path} is damaged, {where}: {first['msg']}") from error

    def write(self, path: Path) -> None:
        """Write the document; a kill at any moment leaves the old one or the new one."""
        with atomic_file(path) as temporary:
            document = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)
            temporary.write_text(document + "\n", encoding="utf-8")


class Part(BaseModel):
    """Base of the parts of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MetricRecord(Part):
    """A metric of a run, as its method declares it.

    Attributes:
        name: Key in ``metrics.jsonl``.
        unit: ``fraction``, ``dB``, ``nats`` or ``""`` for a plain number.
        chance: Value of an uninformed baseline; None where there is none.
    """

    name: str
    unit: str
    chance: float | None


class SourceRecord(Part):
    """Where the images of a run come from.

    Attributes:
        description: For people.
        fingerprint: Identifies the images.
    """

    description: str
    fingerprint: str


class PrecisionRecord(Part):
    """Compute precision of a run and why it was chosen."""

    name: Literal["fp32", "bf16", "fp16"]
    reason: str


class RunRecord(Record):
    """``run.json``: everything needed to repeat or to resume a run.

    Attributes:
        ssltool: Version that wrote it.
        method: Name of the method.
        options: Every resolved option of the run and of the method, by name.
        precision: Compute precision.
        source: Where the images come from.
        data: What the method was told of them.
        fingerprint: What the task was built from beyond its options, see ``Method.fingerprint``.
        metrics: The method's metrics, loss first.
        environment: Versions and platform.
    """

    format: Literal[2] = 2
    ssltool: str
    method: str
    options: dict[str, Any]
    precision: PrecisionRecord
    source: SourceRecord
    data: DataInfo
    fingerprint: dict[str, Any]
    metrics: tuple[MetricRecord, ...]
    environment: dict[str, str]

    @property
    def chance(self) -> dict[str, float]:
        """Chance level by metric, for those that have one."""
        return {m.name: m.chance for m in self.metrics if m.chance is not None}


class FeatureSource(Part):
    """Where a row's features come from.

    Attributes:
        kind: Pretrained weights, or a baseline.
        method: Pretext task of the weights; empty for baselines.
        network: Backbone, stem and channels in words; empty for pixels and the majority class.
        variant: Whether the encoder reads the whole image or a grid of patches.
    """

    kind: FeatureKind
    method: str = ""
    network: str = ""
    variant: Variant = "image"

    def label(self) -> str:
        """For tables and legends."""
        name = {
            "pretrained": self.method,
            "random_init": "random init",
            "pixels": "raw pixels",
            "majority": "majority class",
        }[self.kind]
        return name if self.variant == "image" else f"{name} (patches)"


class ProbeRow(Part):
    """One row of the probe's table.

    Attributes:
        source: Where the features come from.
        stage: ``pooled``, the name of a stage, or that with ``" grid"``; empty for pixels and
            the majority class.
        dim: Dimensions of the feature vector.
        accuracy: Measure -> percent, of those that were computed.
        std: Measure -> standard deviation over seeds, where there were several.
        weight_decay: That the linear probe chose; None if there was none.
        converged: Measure -> whether its optimizer converged.
    """

    source: FeatureSource
    stage: str
    dim: int = Field(ge=0)
    accuracy: dict[Measure, Percent]
    std: dict[Measure, float] = {}
    weight_decay: float | None = None
    converged: dict[Measure, bool] = {}


class LabelRow(Part):
    """One point of a label-efficiency curve.

    Attributes:
        source: Where the features come from.
        protocol: Frozen features, fine-tuning, or training from scratch.
        fraction: Of the labels used, 0..1; None if shots were asked for.
        shots: Labeled images per class; None if a fraction was asked for.
        images: Labeled images used.
        accuracy: Percent, mean over the repeats.
        std: Standard deviation over the repeats; None for one.
        repeats: Number of seeds.
    """

    source: FeatureSource
    protocol: Literal["linear", "finetune", "scratch"]
    fraction: float | None = Field(None, gt=0, le=1)
    shots: int | None = Field(None, ge=1)
    images: int = Field(ge=0)
    accuracy: Percent
    std: float | None = None
    repeats: int = Field(1, ge=1)


class HealthRow(Part):
    """Spread of the pooled features of one source, see `ssltool.probing.health`."""

    source: FeatureSource
    effective_rank: float
    std: float
    uniformity: float
    alignment: float | None
    warning: str


class Details(Part):
    """What a linear probe of the best row predicts, class by class.

    Attributes:
        row: Index of the row.
        per_class: Accuracy in percent of each class; None for a class without test images.
        confusion: Counts, true class by predicted class.
    """

    row: int = Field(ge=0)
    per_class: tuple[Percent | None, ...]
    confusion: tuple[tuple[int, ...], ...]


class ProbeRecord(Record):
    """``probe.json``: what a probe measured, and how.

    Attributes:
        weights: The file that was probed.
        method: Its pretext task.
        backbone: Its backbone.
        network: Backbone, stem and channels in words.
        steps: Steps it was trained for.
        classes: Class names, in the order of the labels.
        train_images: Number of labeled training images.
        test_images: Number of test images.
        skipped: Name -> reason of the images that could not be read.
        rows: The table.
        best: Index of the best row of the pretrained weights; None without rows.
        details: Of the best row's linear probe.
        health: Spread of the features.
        label_efficiency: Points of the curves, if asked for.
        plots: Files that were drawn.
        protocol: How it was measured; equal protocols give equal records.
    """

    format: Literal[2] = 2
    weights: str
    method: str
    backbone: str
    network: str
    steps: int
    classes: tuple[str, ...]
    train_images: int
    test_images: int
    skipped: dict[str, str]
    rows: tuple[ProbeRow, ...]
    best: int | None
    details: Details | None
    health: tuple[HealthRow, ...]
    label_efficiency: tuple[LabelRow, ...]
    plots: tuple[str, ...]
    protocol: dict[str, Any]
