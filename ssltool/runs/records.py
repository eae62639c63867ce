"""Records on disk, checked when they are read back: their base, and the record of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from ssltool.atomic import atomic_file
from ssltool.documents import DocumentError, read_json, validated
from ssltool.encoders.metadata import EncoderMetadata, InitialWeights
from ssltool.errors import CheckpointError
from ssltool.methods.options import DataInfo
from ssltool.plotting.units import Unit

RUN_FILE = "run.json"


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
            document = read_json(path)
            found = document.get("format") if isinstance(document, dict) else None
            expected = cls.model_fields["format"].default
            if isinstance(found, int) and found != expected:
                raise CheckpointError(
                    f"{path} has format {found} and this ssltool reads format {expected}; use the "
                    "ssltool that wrote it, or make it again"
                )
            return validated(cls, document)
        except DocumentError as error:
            raise CheckpointError(
                f"{path} is damaged, {error}; restore a copy, or make it again"
            ) from error

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


class Extension(Part):
    """A new length that a run was given when it was resumed.

    Attributes:
        at: Steps taken before.
        before: Steps of the whole run as it was.
        steps: Steps of the whole run from there on.
    """

    at: int
    before: int
    steps: int


class BudgetRecord(Part):
    """A wall time, and what was chosen to fit into it.

    Attributes:
        seconds: Of the whole run, as asked for.
        images_per_s: Measured before the run began; after the first pass over the images.
        first_pass_images_per_s: Of the first pass, in which files are read.
        larger: What a larger budget would buy, for people.
    """

    seconds: float
    images_per_s: float
    first_pass_images_per_s: float
    larger: str


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
        metrics: The method's metrics, loss first; ``knn`` last with ``--probe-data``.
        environment: Versions and machine.
        extended: Every new length that the run was given, oldest first.
        budget: The wall time that decided the options; None if no time was asked for.
        initial_weights: What was taken from the file of ``--init``; None without one.
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
    extended: tuple[Extension, ...] = ()
    budget: BudgetRecord | None = None
    initial_weights: InitialWeights | None = None

    @property
    def chance(self) -> dict[str, float]:
        """Chance level by metric, for those that have one."""
        return {m.name: m.chance for m in self.metrics if m.chance is not None}

    def trained(self, weights: EncoderMetadata) -> bool:
        """Whether weights are of this run, as far as their metadata tell: a stranger's may lie in
        its folder.
        """
        if weights.training is None:
            return False
        of = weights.training
        own = [self.options.get(name) for name in ("optimizer", "lr", "seed")]
        return [self.method, *own, self.data.count] == [
            weights.method,
            of.optimizer,
            of.lr,
            of.seed,
            of.images,
        ]
