"""What did the encoder learn? Features are read once, then probed, beside random init and raw
pixels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from ssltool.atomic import atomic_file
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.weights import find_weights, has_metadata, load_encoder, load_plain
from ssltool.errors import UsageError
from ssltool.options import describe_faults
from ssltool.plotting.figures import save_plot
from ssltool.plotting.records import Bars, Matrix
from ssltool.probing import label_efficiency as label_curves
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import (
    Features,
    hash_of_weights,
    health_of,
    random_init,
    read,
    read_pixels,
    read_size,
    ways,
)
from ssltool.probing.finetune import Schedule
from ssltool.probing.measures import Kind, Scored, majority, score
from ssltool.probing.store import FeatureStore, default_folder
from ssltool.runs.records import RUN_FILE

DOCUMENT = "probe.json"
_DRAWN = 60  # classes that a confusion matrix can be read with


class ProbeOptions(BaseModel):
    """Options of ``ssltool probe``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path
    data: tuple[str, ...]
    test_data: tuple[str, ...] = ()
    label_file: Path | None = None
    kinds: tuple[Kind, ...] = ()
    labels: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    shots: tuple[Annotated[int, Field(ge=1)], ...] = ()
    repeats: int = Field(1, ge=1, le=100)
    scratch: bool = False
    finetune_images: int = Field(Schedule.images, ge=1)
    backbone: str | None = None
    stem: Literal["imagenet", "small"] = "imagenet"
    image_size: int | None = Field(None, ge=8, le=1024)
    to: Path | None = None
    grid_numbers: int = Field(512, ge=0)
    baselines: bool = True
    recalibrate: bool = True
    cache: Path | None = None
    keep_features: bool = True
    batch_size: int = Field(256, ge=1)
    workers: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0)

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Validate; faults become one line naming flags."""
        try:
            return cls(**values)
        except ValidationError as error:
            faults = describe_faults(cls, error)
            raise UsageError(faults.replace("--kinds", "--kind")) from error


@dataclass
class Clock:
    """Seconds spent reading features and fitting probes to them."""

    reading: float = 0.0
    fitting: float = 0.0

    @contextmanager
    def on(self, part: Literal["reading", "fitting"]) -> Iterator[None]:
        """Add the time inside to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - start)


def probe(
    options: ProbeOptions,
    console: Console | None = None,
    clock: Clock | None = None,
    memory: dict[str, list[Scored]] | None = None,
) -> dict[str, Any]:
    """Run ``ssltool probe``.

    Args:
        options: What to probe, on which images and how.
        console: Where progress goes; stderr if not given.
        clock: Told how long reading and fitting took.
        memory: Rows of features that were probed alike before, which are not probed again; grows.

    Returns:
        In JSON kinds: ``rows`` with ``features`` (the method's name, random init, pixels),
        ``stage``, ``numbers`` and the measures of `MEASURES` that were asked for, in percent;
        ``best``, the index of the method's best row; ``details`` of that row: ``per_class`` and
        ``confusion``; ``health`` of the features; ``labels``, rows with ``features, how, share |
        shots, data, accuracy, deviation``, if asked for; ``charts`` that were drawn; ``classes``;
        numbers of images; ``skipped``; and how it was done (``protocol``). The same command returns
        the same document on a CPU.

    Raises:
        SslToolError: The weights, the images or the options are not what they should be.
    """
    console, clock = console or Console(stderr=True, highlight=False), clock or Clock()
    memory = {} if memory is None else memory
    encoder, metadata, weights = open_encoder(options, console)
    data, kinds = _images(options)
    how = _protocol(options, kinds, encoder, data)
    store = FeatureStore((options.cache or default_folder()) if options.keep_features else None)
    patch = (
        None if options.labels or options.shots else metadata.patch
    )  # a curve over labels is costly enough in one way
    own = ways(metadata.method, encoder, patch)
    networks = own | (
        ways("random init", random_init(encoder, options.seed), patch) if options.baselines else {}
    )
    scored: list[Scored] = []
    few: list[dict[str, Any]] = []
    healths: dict[str, dict[str, Any]] = {}
    reads = bool(kinds - {"finetune"})

    def rows_of(name: str, found: Features) -> list[Scored]:
        if found.key not in memory:
            memory[found.key] = score(
                name, found, data, kinds, options.seed, options.repeats, console
            )
        return [
            Scored({**known.row, "features": name}, known.details) for known in memory[found.key]
        ]

    curve = bool(options.labels or options.shots)
    grid = options.grid_numbers if "layers" in kinds else 0
    for name, network in networks.items() if reads else ():
        with clock.on("reading"):
            console.print(f"{name}: reading features")
            found = read(
                network, metadata, data, store, grid=grid, recalibrated=options.recalibrate
            )
            healths[name] = health_of(network, metadata, data)
        if healths[name]["warning"] and name in own:
            console.print(f"{name}: {healths[name]['warning']}", style="bold red")
        with clock.on("fitting"):
            scored += rows_of(name, found)
            if curve and "linear" in kinds:
                few += label_curves.frozen(name, found, data, options, console)
    if options.baselines and reads and not curve:
        with clock.on("reading"):
            found = read_pixels(data, read_size(metadata), store)
        with clock.on("fitting"):
            scored += rows_of("pixels", found)
        scored += majority(data, scored)
    if "finetune" in kinds or options.scratch:
        with clock.on("fitting"):
            few += label_curves.tuned(
                networks, metadata, read_size(metadata), data, options, "finetune" in kinds, console
            )
    console.print(f"reading took {clock.reading:.1f} s, fitting {clock.fitting:.1f} s")
    mine = [i for i, found_ in enumerate(scored) if found_.row["features"] in own]
    best = max(mine, key=lambda i: _worth(scored[i].row), default=None)
    document = {
        "weights": str(weights),
        "method": metadata.method,
        "backbone": metadata.backbone,
        "network": f"{metadata.backbone}, {metadata.stem} stem, {metadata.in_channels} channel{'s' * (metadata.in_channels > 1)}",
        "steps": metadata.training.get("steps", 0),
        "rows": [found_.row for found_ in scored],
        "best": best,
        "details": {} if best is None else scored[best].details,
        "health": healths,
        "classes": list(data.classes),
        **({"labels": few} if few else {}),
        "train_images": data.count("train"),
        "test_images": data.count("test"),
        "skipped": data.skipped,
        "protocol": how,
    }
    document["charts"] = [str(path) for path in _draw(document, weights, options)]
    _keep(document, weights, options)
    return document


def _worth(row: Mapping[str, Any]) -> float:
    """What rows are compared by."""
    return next(
        (float(row[name]) for name in ("linear", "svm_map", "knn20", "mlp") if name in row), 0.0
    )


def _kinds(options: ProbeOptions, data: LabeledImages) -> frozenset[Kind]:
    """The kinds asked for, or those that suit the labels."""
    kinds = frozenset(options.kinds)
    if not data.several:
        return kinds or frozenset({"linear", "layers", "knn"})
    unfit = sorted(kinds - {"svm", "layers"})
    if unfit or options.labels or options.shots or options.scratch:
        flags = ", ".join(unfit) or "labels"
        raise UsageError(
            f"images have several classes each, which {flags} cannot use; type --kind svm,layers"
        )
    return kinds or frozenset({"svm", "layers"})


def open_encoder(options: ProbeOptions, console: Console) -> tuple[Encoder, EncoderMetadata, Path]:
    """The encoder of a run folder, a weights file, or a plain state dict of a torchvision model.

    Raises:
        WeightsError: A tensor does not match; the message names the keys.
        UsageError: Plain weights and no ``--backbone``.
    """
    weights = find_weights(options.weights)
    if has_metadata(weights):
        if options.backbone is not None:
            raise UsageError(
                f"--backbone {options.backbone}: {weights} says itself what it is; drop it"
            )
        encoder = load_encoder(weights)
        assert encoder.metadata is not None, "load_encoder attaches it"
        return encoder, encoder.metadata, weights
    if options.backbone is None:
        raise UsageError(
            f"{weights} does not say what it is; type --backbone NAME, such as resnet50"
        )
    encoder, matched, passed = load_plain(
        weights, options.backbone, options.stem, options.image_size or 224
    )
    over = f"; passed over {', '.join(passed)}" if passed else ""
    console.print(f"{weights}: {matched} tensors matched {options.backbone}, none was left{over}")
    assert encoder.metadata is not None, "load_plain attaches it"
    return encoder, encoder.metadata, weights


def protocol_of(options: ProbeOptions) -> dict[str, Any]:
    """The protocol that a probe with these options will have, without probing."""
    encoder, _, _ = open_encoder(options, Console(quiet=True))
    data, kinds = _images(options)
    return _protocol(options, kinds, encoder, data)


def _images(options: ProbeOptions) -> tuple[LabeledImages, frozenset[Kind]]:
    """The labeled images, and what is to be measured on them."""
    data = LabeledImages(
        options.data,
        options.test_data,
        label_file=options.label_file,
        seed=options.seed,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    return data, _kinds(options, data)


def _protocol(
    options: ProbeOptions, kinds: frozenset[Kind], encoder: Encoder, data: LabeledImages
) -> dict[str, Any]:
    """How a document came about: with the same protocol it would be the same."""
    assert encoder.metadata is not None, "loading attaches it"
    return {
        "weights": hash_of_weights(encoder),
        "kinds": sorted(kinds),
        "data": [data.fingerprint("train"), data.fingerprint("test")],
        "read_size": encoder.metadata.image_size,
        "grid_numbers": options.grid_numbers,
        "recalibrated_batch_norm": options.recalibrate,
        "baselines": options.baselines,
        "labels": [*options.labels, *options.shots],
        "repeats": options.repeats,
        "linear": "logistic regression, weight decay chosen on a tenth of the training images",
        "knn": "cosine, votes weighted by exp(similarity / 0.07)",
        "svm": "squared hinge, one against the rest, cost of each class chosen by three folds",
        "seed": options.seed,
    }


def _draw(document: Mapping[str, Any], weights: Path, options: ProbeOptions) -> list[Path]:
    """Draw the confusion matrix, the accuracy of each class and the curve over labels, if there is
    a place for them.
    """
    folder = _folder(weights, options)
    if folder is None:
        return []
    drawn = []
    title = f"{document['method']}, {document['backbone']}"
    details = document["details"]
    if details and len(document["classes"]) <= _DRAWN:
        stage = document["rows"][document["best"]]["stage"]
        names = document["classes"]
        counts = torch.tensor(details["confusion"]).double()
        percent = 100 * counts / counts.sum(1, keepdim=True).clamp_min(1)
        confusion = Matrix(percent, names, names, "true class", "predicted class", digits=0)
        heading = f"{title}, {stage}: predictions in % of each class"
        drawn.append(save_plot(confusion, folder / "probe-confusion.png", heading))
        known = {name: share for name, share in details["per_class"].items() if share is not None}
        heading = f"{title}, {stage}: accuracy of each class"
        classes = Bars(known, "test accuracy, percent")
        drawn.append(save_plot(classes, folder / "probe-classes.png", heading))
    few = [row for row in document.get("labels", ()) if "share" in row or "shots" in row]
    if len({row["images"] for row in few}) > 1:
        heading = f"{title}: accuracy over labels"
        drawn.append(save_plot(label_curves.plot(few), folder / "probe-labels.png", heading))
    return drawn


def _keep(document: Mapping[str, Any], weights: Path, options: ProbeOptions) -> None:
    """Write the document beside the weights of a run, or into the folder asked for."""
    folder = options.to or (weights.parent if _folder(weights, options) else None)
    if folder is not None:
        with atomic_file(folder / DOCUMENT) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _folder(weights: Path, options: ProbeOptions) -> Path | None:
    """Where images go: where the user said, else into a run's own folder; nowhere for a weights
    file alone.
    """
    if options.to is not None:
        return options.to
    return weights.parent / "figures" if (weights.parent / RUN_FILE).is_file() else None
