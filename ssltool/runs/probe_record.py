"""`ProbeRecord`: what a probe measured and how, its tables, and ``probe.json``."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from ssltool.runs.records import Part, Record
from ssltool.runs.tables import Table

PROBE_FILE = "probe.json"
POOLED = "pooled"
"""Stage name of an encoder's own vector."""
PROJECTION = "projection"
"""Stage name of the unit vectors that a method compares, `ssltool.encoders.projection`."""
BANK = "bank"
"""Stage name of projections of test images among the memory bank's vectors of training images."""

Percent = Annotated[float, Field(ge=0, le=100)]
FeatureKind = Literal["pretrained", "random_init", "pixels", "majority"]
Variant = Literal["image", "patches"]
LabelProtocol = Literal["linear", "finetune", "scratch"]
Measure = Literal["linear", "patch_linear", "knn5", "knn20", "knn200", "svm", "svm_map", "mlp"]
MEASURES: dict[Measure, str] = {
    "linear": "linear",
    "patch_linear": "linear on patches",
    "knn5": "kNN, k = 5",
    "knn20": "kNN, k = 20",
    "knn200": "kNN, k = 200",
    "svm": "SVM",
    "svm_map": "SVM, mAP",
    "mlp": "MLP",
}
"""Title of each measure, in the order of the tables' columns."""


class FeatureSource(Part):
    """Where features come from. Baselines differ by ``kind``; `label` is for display only.

    Attributes:
        kind: Pretrained weights, or a baseline.
        method: Pretext task of the weights; empty for baselines.
        network: Backbone, stem, norm and channels in words; empty for pixels and the majority
            class.
        input: Sides in pixels at which files are read and the encoder is applied, in words.
        identity: Hash of all that the network's input and architecture depend on, so that
            baselines of different encoders are never taken for one; empty for the majority class.
        variant: Whether the encoder reads the whole image or a grid of patches.
    """

    kind: FeatureKind
    method: str = ""
    network: str = ""
    input: str = ""
    identity: str = ""
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
        stage: ``pooled``, the name of a stage, or that with ``" grid"``; ``projection`` or
            ``bank``; empty for pixels and the majority class.
        dim: Dimensions of the feature vector; 0 for the majority class.
        accuracy: Measure -> percent of the test images, of those that were computed, a mean over
            the seeds; ``svm_map`` is a mean average precision.
        standard_error: Measure -> standard error of the accuracy in percentage points, from the
            number of test images: binomial, of ``svm_map`` by the bootstrap.
        std: Measure -> standard deviation over the seeds, in percentage points, where there were
            several.
        seeds: Random initializations that the row is a mean of; 1 for other sources.
        held_out: Measure -> the same on held-out training images, mean over the seeds: what a
            stage is chosen by.
        chosen: Whether this is the row of its source that did best on held-out training images.
        weight_decay: Chosen for the linear probe, of the first seed; None without one.
        converged: Measure -> whether its optimizer reached the optimum.
    """

    source: FeatureSource
    stage: str
    dim: int = Field(ge=0)
    accuracy: dict[Measure, Percent]
    standard_error: dict[Measure, NonNegativeFloat] = {}
    std: dict[Measure, NonNegativeFloat] = {}
    seeds: int = Field(1, ge=1)
    held_out: dict[Measure, Percent] = {}
    chosen: bool = False
    weight_decay: float | None = None
    converged: dict[Measure, bool] = {}

    def score(self, measure: Measure) -> str:
        """Accuracy, standard error and deviation over the seeds, for display; empty without it."""
        if measure not in self.accuracy:
            return ""
        text = f"{self.accuracy[measure]:.1f}"
        if measure in self.standard_error:
            text += f" ± {self.standard_error[measure]:.1f}"
        return text + (f" / {self.std[measure]:.1f}" if measure in self.std else "")

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
        freeze_to: Stage up to which the weights were frozen in fine-tuning and after which they
            were reinitialized; None if all were trained.
        fraction: Of the labels, 0..1; None if a number of shots was asked for.
        shots: Labeled images per class; None if a fraction was asked for.
        images: Labeled images used.
        accuracy: Percent, mean over the repeats.
        standard_error: Binomial, from the number of test images, in percentage points.
        std: Standard deviation over the repeats, in percentage points; None for one.
        repeats: Number of seeds.
    """

    source: FeatureSource
    protocol: LabelProtocol
    freeze_to: str | None = None
    fraction: float | None = Field(None, gt=0, le=1)
    shots: int | None = Field(None, ge=1)
    images: int = Field(ge=0)
    accuracy: Percent
    standard_error: NonNegativeFloat
    std: float | None = None
    repeats: int = Field(1, ge=1)

    def budget(self) -> str:
        """How many labels, for display."""
        return f"{self.shots} per class" if self.fraction is None else f"{self.fraction:.3g}"

    def curve(self) -> str:
        """Name of the curve the point belongs to, for display."""
        if self.protocol == "linear":
            return f"{self.source.label()}, frozen"
        if self.freeze_to is not None:
            return f"{self.source.label()}, frozen to {self.freeze_to}"
        if self.source.kind == "random_init":
            long = self.protocol == "scratch"
            return "trained from scratch" + (", pretraining budget" if long else "")
        return f"{self.source.label()}, fine-tuned"

    def score(self) -> str:
        """Accuracy, standard error and deviation over the repeats, for display."""
        text = f"{self.accuracy:.1f} ± {self.standard_error:.1f}"
        return text + ("" if self.std is None else f" / {self.std:.1f}")


class HealthRow(Part):
    """Spread of the pooled features of one source, see `ssltool.probing.health`.

    Attributes:
        source: Where the features come from.
        effective_rank: At least 1; None if it cannot be measured, as are all of these.
        std: Of the unit vectors, times sqrt(D); about 1 when spread over the sphere.
        uniformity: -4..0, lower is more even.
        alignment: With mirrored images, 0..4.
        reason: Why measures are None; empty otherwise.
        warning: Non-empty if the representation has collapsed.
    """

    source: FeatureSource
    effective_rank: float | None
    std: float | None
    uniformity: float | None
    alignment: float | None
    reason: str = ""
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
        encoder: SHA-256 of its tensors and of all else that decides features.
        projection: SHA-256 of the tensors of its projection; empty if none was measured.
        data: Fingerprints of the training and the test images and of their labels.
        kind: What was measured, sorted.
        image_size: Side in pixels at which the encoder read the images.
        grid_dim: Largest dimension of a stage's grid; 0 for none.
        paper: Paper whose protocol was followed for the stages; empty for our own.
        recipe: Paper whose recipe of fine-tuning was followed; empty for our own.
        recalibrate: Whether batch norm was re-estimated on the training images.
        baselines: Whether baselines were measured.
        random_inits: Number of random initializations of the baseline.
        knn_space: Where neighbors were searched: among features as they are, centered or whitened.
        near_duplicates: Whether near duplicates were looked for.
        mirror: Whether fine-tuning mirrors images.
        finetune_images: Images seen in fine-tuning, unless a recipe says how many.
        scratch: Whether a network was trained from random init.
        freeze_to: Stages up to which it leaves the weights as they are.
        label_fractions: Points of the label-efficiency curves.
        shots: Likewise.
        repeats: Number of seeds.
        seed: First seed.
        rules: Measure -> its rule, in words.
        environment: What else can change a number: versions, decoders, device and threads.
    """

    encoder: str
    projection: str = ""
    data: tuple[str, ...]
    kind: tuple[str, ...]
    image_size: int
    grid_dim: int
    paper: str = ""
    recipe: str = ""
    recalibrate: bool
    baselines: bool
    random_inits: int
    knn_space: str
    near_duplicates: bool
    mirror: bool
    finetune_images: int
    scratch: bool
    freeze_to: tuple[str, ...] = ()
    label_fractions: tuple[float, ...]
    shots: tuple[int, ...]
    repeats: int
    seed: int
    rules: dict[str, str]
    environment: dict[str, str]

    @property
    def conditions(self) -> dict[str, Any]:
        """What accuracies of different encoders must share to be comparable."""
        shared = {"data", "grid_dim", "paper", "recalibrate", "knn_space", "rules"}
        return self.model_dump(mode="json", include=shared)


class ProbeRecord(Record):
    """``probe.json``: what a probe measured, and how.

    Attributes:
        weights: The file that was probed.
        method: Its pretext task.
        backbone: Its backbone.
        network: Backbone, stem, norm and channels in words.
        steps: Steps it was trained for.
        classes: Class names, in the order of the labels.
        train_images: Number of labeled training images that were read.
        test_images: Number of test images that were read.
        overlap: Test images whose pixels, as they were read, are those of a training image.
        contradicted: Those of them that no equal training image shares the classes of.
        near_duplicates: Test images that nearly are a training image, and that image; None unless
            they were asked for.
        skipped: Name -> reason of the images that could not be read.
        notes: What was left out or decided about the data, one line each.
        rows: The table.
        chosen: Index of the row of the pretrained weights, of all variants and stages, that did
            best on held-out training images; None without rows.
        details: Of that row's linear probe; None without one.
        health: Spread of the features.
        label_efficiency: Points of the curves, if asked for.
        plots: Files that were drawn.
        protocol: How it was measured.
    """

    format: Literal[3] = 3
    weights: str
    method: str
    backbone: str
    network: str
    steps: int
    classes: tuple[str, ...]
    train_images: int
    test_images: int
    overlap: int = Field(ge=0)
    contradicted: int = Field(default=0, ge=0)
    near_duplicates: tuple[tuple[str, str], ...] | None = None
    skipped: dict[str, str]
    notes: tuple[str, ...]
    rows: tuple[ProbeRow, ...]
    chosen: int | None
    details: Details | None
    health: tuple[HealthRow, ...]
    label_efficiency: tuple[LabelRow, ...]
    plots: tuple[str, ...]
    protocol: ProbeProtocol

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        """Refuse indices of rows that do not exist and details of other classes."""
        named = [self.chosen] if self.chosen is not None else []
        if self.details is not None:
            named.append(self.details.row)
            sizes = [len(self.details.per_class), *map(len, self.details.confusion)]
            if {*sizes, len(self.details.confusion)} != {len(self.classes)}:
                raise ValueError("details should have one entry for each class")
        if not all(0 <= row < len(self.rows) for row in named):
            raise ValueError("chosen and details should name rows of the table")
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
        """Of test images that were trained on and of collapsed representations, a line each."""
        collapsed = [f"{row.source.label()}: {row.warning}" for row in self.health if row.warning]
        return [*self._overlap_warnings(), *collapsed]

    def _overlap_warnings(self) -> Iterator[str]:
        if self.near_duplicates:
            image, other = self.near_duplicates[0]
            yield (
                f"{len(self.near_duplicates):,} of {self.test_images:,} test images are near "
                f"duplicates of a training image; first: {image}, of {other}"
            )
        effect = "; the accuracy is too high by what is remembered of them"
        if self.contradicted:
            effect = (
                f", {self.contradicted:,} of them with other classes; remembering makes the "
                "accuracy too low by these and too high by the rest"
            )
        if self.overlap:
            of = f"{self.overlap:,} of {self.test_images:,} test images"
            yield f"{of} are the same as a training image{effect}"

    def _repr_html_(self) -> str:
        """Tables for notebooks."""
        tables = [table.html() for table in self.tables()]
        return "\n".join([*tables, *(f"<p>{escape(line)}</p>" for line in self.warnings())])

    def _accuracy_table(self) -> Table:
        measures = [name for name in MEASURES if any(name in row.accuracy for row in self.rows)]
        return Table(
            title=f"accuracy in % {self.table_legend()}; {self.data_summary()}",
            columns=("features", "stage", "dim", *(MEASURES[name] for name in measures)),
            rows=[
                (
                    row.source.label(),
                    f"{row.stage} *" if row.chosen and row.stage else row.stage,
                    str(row.dim or ""),
                    *(row.score(measure) for measure in measures),
                )
                for row in self.rows
            ],
            text_columns=2,
            best=self.chosen,
        )

    def table_legend(self) -> str:
        """What the marks in a table of accuracies mean, and what was measured otherwise than by
        default.
        """
        legend = "± standard error"
        seeds = max((row.seeds for row in self.rows), default=1)
        if any(row.std for row in self.rows):
            legend += f" / deviation over {seeds} seeds" if seeds > 1 else " / deviation over seeds"
        several = any(row.chosen and row.stage for row in self.rows)
        legend += "; * chosen on held-out training images" if several else ""
        space, measures = self.protocol.knn_space, {m for row in self.rows for m in row.accuracy}
        if space != "cosine" and measures & {"knn5", "knn20", "knn200"}:
            legend += f"; kNN among {space} features"
        return legend + (f"; stages as in {self.protocol.paper}" if self.protocol.paper else "")

    def _health_table(self) -> Table:
        return Table(
            title="health of the pooled features",
            columns=("features", "effective rank", "std", "uniformity", "alignment"),
            rows=[
                (
                    row.source.label(),
                    *(
                        "" if value is None else f"{value:.{digits}f}"
                        for value, digits in (
                            (row.effective_rank, 1),
                            (row.std, 2),
                            (row.uniformity, 2),
                            (row.alignment, 3),
                        )
                    ),
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
            title="label efficiency, accuracy in % ± standard error / deviation over repeats",
            columns=("labels", "images", *curves),
            rows=[
                (budget, str(images), *(scores.get(curve, "") for curve in curves))
                for (images, budget), scores in points.items()
            ],
        )
