"""Records on disk: what a run and a probe write, checked when they are read back."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ssltool.atomic import atomic_file
from ssltool.errors import CheckpointError
from ssltool.methods.base import DataInfo
from ssltool.plotting.units import Unit
from ssltool.runs.tables import Table

RUN_FILE = "run.json"
PROBE_FILE = "probe.json"
POOLED = "pooled"
"""Stage name of an encoder's own vector."""

Percent = Annotated[float, Field(ge=0, le=100)]
FeatureKind = Literal["pretrained", "random_init", "pixels", "majority"]
Variant = Literal["image", "patches"]
LabelProtocol = Literal["linear", "finetune", "scratch"]
Measure = Literal["linear", "knn5", "knn20", "knn200", "svm", "svm_map", "mlp"]
MEASURES: dict[Measure, str] = {
    "linear": "linear",
    "knn5": "kNN, k = 5",
    "knn20": "kNN, k = 20",
    "knn200": "kNN, k = 200",
    "svm": "SVM",
    "svm_map": "SVM, mAP",
    "mlp": "MLP",
}
"""Title of each measure, in the order of the tables' columns."""


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
            # Not by pydantic's own parser, which refuses names of undecodable bytes.
            return cls.model_validate(json.loads(path.read_bytes()))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise CheckpointError(f"{path} is damaged, {where}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged, it is no JSON: {error}") from error

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
    unit: Unit
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
        data: Statistics of the images that the method received.
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
    """Where features come from. Baselines differ by ``kind``; `label` is for display only.

    Attributes:
        kind: Pretrained weights, or a baseline.
        method: Pretext task of the weights; empty for baselines.
        network: Backbone, stem, norm and channels in words; empty for pixels and the majority
            class.
        variant: Whether the encoder reads the whole image or a grid of patches.
    """

    kind: FeatureKind
    method: str = ""
    network: str = ""
    variant: Variant = "image"

    def label(self, name: str | None = None) -> str:
        """For tables and legends.

        Args:
            name: Shown in place of the method or the baseline.
        """
        name = (
            name
            or {
                "pretrained": self.method,
                "random_init": "random init",
                "pixels": "raw pixels",
                "majority": "majority class",
            }[self.kind]
        )
        return name if self.variant == "image" else f"{name} (patches)"


class ProbeRow(Part):
    """One row of the probe's table.

    Attributes:
        source: Where the features come from.
        stage: ``pooled``, the name of a stage, or that with ``" grid"``; empty for pixels and
            the majority class.
        dim: Dimensions of the feature vector; 0 for the majority class.
        accuracy: Measure -> percent, of those that were computed; ``svm_map`` is a mean average
            precision.
        std: Measure -> standard deviation over the seeds, in percentage points, where there were
            several.
        weight_decay: Chosen for the linear probe; None without one.
        converged: Measure -> whether its optimizer reached the optimum.
    """

    source: FeatureSource
    stage: str
    dim: int = Field(ge=0)
    accuracy: dict[Measure, Percent]
    std: dict[Measure, float] = {}
    weight_decay: float | None = None
    converged: dict[Measure, bool] = {}

    @property
    def is_whole(self) -> bool:
        """Whether the features are the source's own vector and not a stage of a network."""
        return self.stage in {POOLED, ""}


class LabelRow(Part):
    """One point of a label-efficiency curve.

    Attributes:
        source: Where the features or the initial weights come from.
        protocol: Linear probe of frozen features, fine-tuning, or training from scratch for as
            many images as pretraining saw.
        fraction: Of the labels, 0..1; None if a number of shots was asked for.
        shots: Labeled images per class; None if a fraction was asked for.
        images: Labeled images used.
        accuracy: Percent, mean over the repeats.
        std: Standard deviation over the repeats, in percentage points; None for one.
        repeats: Number of seeds.
    """

    source: FeatureSource
    protocol: LabelProtocol
    fraction: float | None = Field(None, gt=0, le=1)
    shots: int | None = Field(None, ge=1)
    images: int = Field(ge=0)
    accuracy: Percent
    std: float | None = None
    repeats: int = Field(1, ge=1)

    def budget(self) -> str:
        """How many labels, for display."""
        return f"{self.shots} per class" if self.fraction is None else f"{self.fraction:.3g}"

    def curve(self) -> str:
        """Name of the curve the point belongs to, for display."""
        if self.protocol == "linear":
            return f"{self.source.label()}, frozen"
        if self.source.kind == "random_init":
            long = self.protocol == "scratch"
            return "trained from scratch" + (", pretraining budget" if long else "")
        return f"{self.source.label()}, fine-tuned"

    def score(self) -> str:
        """Accuracy with its standard deviation, for display."""
        return f"{self.accuracy:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


class HealthRow(Part):
    """Spread of the pooled features of one source, see `ssltool.probing.health`.

    Attributes:
        source: Where the features come from.
        effective_rank: At least 1.
        std: Of the unit vectors, times sqrt(D); about 1 when spread over the sphere.
        uniformity: -4..0, lower is more even.
        alignment: With mirrored images, 0..4.
        warning: Non-empty if the representation has collapsed.
    """

    source: FeatureSource
    effective_rank: float
    std: float
    uniformity: float
    alignment: float | None
    warning: str


class Details(Part):
    """Predictions of the linear probe of one row, class by class.

    Attributes:
        row: Index of the row.
        per_class: Accuracy in percent of each class; None for a class without test images.
        confusion: Counts, true class by predicted class.
    """

    row: int = Field(ge=0)
    per_class: tuple[Percent | None, ...]
    confusion: tuple[tuple[int, ...], ...]


class ProbeProtocol(Part):
    """How a probe measured: records of equal protocols are equal.

    Attributes:
        weights: SHA-256 of the tensors.
        data: Fingerprints of the training and the test images and of their labels.
        kind: What was measured, sorted.
        image_size: Side in pixels at which the encoder read the images.
        grid_dim: Largest dimension of a stage's grid; 0 for none.
        recalibrate: Whether batch norm was re-estimated on the training images.
        baselines: Whether baselines were measured.
        label_fractions: Points of the label-efficiency curves.
        shots: Likewise.
        repeats: Number of seeds.
        seed: First seed.
        rules: Measure -> its rule, in words.
    """

    weights: str
    data: tuple[str, ...]
    kind: tuple[str, ...]
    image_size: int
    grid_dim: int
    recalibrate: bool
    baselines: bool
    label_fractions: tuple[float, ...]
    shots: tuple[int, ...]
    repeats: int
    seed: int
    rules: dict[str, str]


class ProbeRecord(Record):
    """``probe.json``: what a probe measured, and how.

    Attributes:
        weights: The file that was probed.
        method: Its pretext task.
        backbone: Its backbone.
        network: Backbone, stem, norm and channels in words.
        steps: Steps it was trained for.
        classes: Class names, in the order of the labels.
        train_images: Number of labeled training images.
        test_images: Number of test images.
        skipped: Name -> reason of the images that could not be read.
        rows: The table.
        best: Index of the best row of the pretrained weights; None without rows.
        details: Of the best row's linear probe; None without one.
        health: Spread of the features.
        label_efficiency: Points of the curves, if asked for.
        plots: Files that were drawn.
        protocol: How it was measured.
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
    protocol: ProbeProtocol

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        """Refuse indices of rows that do not exist and details of other classes."""
        named = [self.best] if self.best is not None else []
        if self.details is not None:
            named.append(self.details.row)
            sizes = [len(self.details.per_class), *map(len, self.details.confusion)]
            if {*sizes, len(self.details.confusion)} != {len(self.classes)}:
                raise ValueError("details should have one entry for each class")
        if not all(0 <= row < len(self.rows) for row in named):
            raise ValueError("best and details should name rows of the table")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-compatible Python values."""
        return self.model_dump(mode="json")

    def data_summary(self) -> str:
        """The labeled images, in words."""
        return (
            f"{self.train_images:,} training and {self.test_images:,} test images, "
            f"{len(self.classes)} classes"
        )

    def tables(self) -> list[Table]:
        """The results for display: accuracies, health of the features, label efficiency."""
        tables = [self._accuracy_table(), self._health_table(), self._label_table()]
        return [table for table in tables if table.rows]

    def warnings(self) -> list[str]:
        """Of collapsed representations, one line each."""
        return [f"{row.source.label()}: {row.warning}" for row in self.health if row.warning]

    def _repr_html_(self) -> str:
        """Tables for notebooks."""
        tables = [table.html() for table in self.tables()]
        return "\n".join([*tables, *(f"<p>{escape(line)}</p>" for line in self.warnings())])

    def _accuracy_table(self) -> Table:
        measures = [name for name in MEASURES if any(name in row.accuracy for row in self.rows)]
        return Table(
            title=f"accuracy in %, {self.data_summary()}",
            columns=("features", "stage", "dim", *(MEASURES[name] for name in measures)),
            rows=[
                (
                    row.source.label(),
                    row.stage,
                    str(row.dim or ""),
                    *(f"{row.accuracy[m]:.2f}" if m in row.accuracy else "" for m in measures),
                )
                for row in self.rows
            ],
            text_columns=2,
            best=self.best,
        )

    def _health_table(self) -> Table:
        return Table(
            title="health of the pooled features",
            columns=("features", "effective rank", "std", "uniformity", "alignment"),
            rows=[
                (
                    row.source.label(),
                    f"{row.effective_rank:.1f}",
                    f"{row.std:.2f}",
                    f"{row.uniformity:.2f}",
                    "" if row.alignment is None else f"{row.alignment:.3f}",
                )
                for row in self.health
            ],
        )

    def _label_table(self) -> Table:
        """One row per number of labels, one column per curve."""
        curves = list(dict.fromkeys(row.curve() for row in self.label_efficiency))
        points: dict[tuple[int, str], dict[str, str]] = {}
        for row in sorted(self.label_efficiency, key=lambda row: row.images):
            points.setdefault((row.images, row.budget()), {})[row.curve()] = row.score()
        return Table(
            title="label efficiency, accuracy in %",
            columns=("labels", "images", *curves),
            rows=[
                (budget, str(images), *(scores.get(curve, "") for curve in curves))
                for (images, budget), scores in points.items()
            ],
        )
