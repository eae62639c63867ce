"""Probing of an encoder's features on labeled images, beside random init and raw pixels."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from ssltool.data.channels import Channels
from ssltool.data.sources.same import require_same_images
from ssltool.device import choose_device
from ssltool.distributed.collectives import from_main, is_main
from ssltool.distributed.parts import alone, divided_work
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.projection import Projection, load_projection
from ssltool.encoders.weights import has_metadata, load_encoder, load_plain
from ssltool.errors import UsageError
from ssltool.probing import label_efficiency, linear
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import (
    EncoderVariant,
    Extractor,
    Features,
    compute_environment,
    encoder_variants,
    hash_of_encoder,
    hash_of_tensors,
    network_summary,
    random_init,
    recalibrate,
)
from ssltool.probing.features import Grid
from ssltool.probing.kinds import check_kinds, choose_kinds
from ssltool.probing.measures import MeasuredRow, ProbeSuite, RowCache, choice, majority_row
from ssltool.probing.memory import memory_vectors, with_memory
from ssltool.probing.options import Kind, ProbeOptions
from ssltool.probing.overlap import near_duplicates, overlap
from ssltool.probing.plots import draw_plots
from ssltool.probing.predictions import Predictions, draw_predictions
from ssltool.probing.splits import FOLDED
from ssltool.probing.store import FeatureStore, default_folder
from ssltool.runs.duration import format_duration
from ssltool.runs.probe_record import (
    PROBE_FILE,
    FeatureSource,
    HealthRow,
    LabelRow,
    ProbeProtocol,
    ProbeRecord,
)
from ssltool.runs.records import RUN_FILE

RULES = {
    "linear": "logistic regression, weight decay chosen on held-out training images",
    "patch_linear": "batch norm without scale, mean of the logits over patches, Adam 5e-4",
    "knn": "cosine, votes weighted by exp(similarity / 0.07)",
    "svm": "squared hinge, one against the rest, cost of each class chosen by three folds",
    "stage": f"chosen by three folds of up to {FOLDED} training images, by a tenth of more",
}

PAPER_GRID = Grid(9600, bilinear=True)
"""Zhang et al. 2016, released code: 10x10 locations of 96 channels, 6x6 of 256, 5x5 of 384."""
PAPER_WEIGHT_DECAY = 5e-4
PAPER_RULES = {"linear": f"logistic regression, weight decay {PAPER_WEIGHT_DECAY:g}"}


class ProbeInputs(NamedTuple):
    """What is probed, opened.

    Attributes:
        weights: The file.
        encoder: On the CPU, in evaluation mode.
        metadata: Of the weights.
        data: Labeled images.
        kinds: What is measured.
        device: Where.
        projection: Of the encoder, if neighbors are searched and it has one.
    """

    weights: Path
    encoder: Encoder
    metadata: EncoderMetadata
    data: LabeledImages
    kinds: frozenset[Kind]
    device: torch.device
    projection: Projection | None = None


def probe(
    options: ProbeOptions, console: Console | None = None, *, data: LabeledImages | None = None
) -> ProbeRecord:
    """Probe an encoder; on a CPU the same options give the same record.

    The record and its plots are written to ``options.to``, or into the run folder of the weights.
    Processes that torchrun started extract the features of a part of the images each; the first one
    measures, and all return its record.

    Args:
        options: What to probe, on which images and how.
        console: Where progress goes; stderr if not given.
        data: Labeled images in place of those that the options name.

    Raises:
        SslToolError: The weights, the images or the options are invalid.
    """
    with divided_work(console) as console:
        return run_probe(open_inputs(options, console, data), options, console)


def open_inputs(
    options: ProbeOptions, console: Console, data: LabeledImages | None = None
) -> ProbeInputs:
    """Open the weights, the images and the device; see `probe` for the arguments."""
    device = choose_device(options.device)
    weights = find_weights(options.weights)
    encoder, metadata = open_encoder(options, console)
    data = data or LabeledImages(
        options.data,
        options.test_data,
        label_file=options.label_file,
        seed=options.seed,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        content_hash=options.content_hash,
        channels=Channels.of(metadata),
    )
    require_same_images(*data.sources)
    for note in data.notes:
        console.print(note)
    kinds = choose_kinds(options, data)
    check_kinds(options, kinds, encoder, weights)
    projection = load_projection(weights, metadata) if "knn" in kinds else None
    return ProbeInputs(weights, encoder, metadata, data, kinds, device, projection)


def open_encoder(options: ProbeOptions, console: Console) -> tuple[Encoder, EncoderMetadata]:
    """The encoder of a run folder, a weights file, or a plain state dict of a torchvision model.

    Raises:
        WeightsError: A tensor does not match; the message names the keys.
        UsageError: Plain weights without ``--backbone``.
    """
    weights = find_weights(options.weights)
    if has_metadata(weights):
        for name in ("backbone", "stem", "image_size"):
            if (value := getattr(options, name)) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} {value}: {weights} has its own "
                    f"{name.replace('_', ' ')}; drop the option, which is for plain state dicts"
                )
        encoder = load_encoder(weights)
    elif options.backbone is None:
        raise UsageError(
            f"{weights} does not name its backbone; type --backbone NAME, such as resnet50"
        )
    else:
        encoder, matched, ignored = load_plain(
            weights, options.backbone, options.stem or "imagenet", options.image_size or 224
        )
        note = f"; ignored {', '.join(ignored)}" if ignored else ""
        console.print(f"{weights}: all {matched} tensors of {options.backbone} matched{note}")
    return encoder, encoder.metadata


def protocol_of(inputs: ProbeInputs, options: ProbeOptions) -> ProbeProtocol:
    """How the inputs are measured under these options."""
    data = inputs.data
    return ProbeProtocol(
        encoder=hash_of_encoder(inputs.encoder, inputs.metadata),
        projection=hash_of_tensors(inputs.projection) if inputs.projection else "",
        data=_data_identity(data),
        kind=tuple(sorted(inputs.kinds)),
        image_size=inputs.metadata.image_size,
        grid_dim=_grid(options).dim,
        paper=options.protocol or "",
        recipe=options.recipe or "",
        recalibrate=options.recalibrate,
        baselines=options.baselines,
        random_inits=options.random_inits,
        knn_space=options.knn_space,
        near_duplicates=options.near_duplicates,
        mirror=options.mirror,
        finetune_images=options.finetune_images,
        scratch=options.scratch,
        freeze_to=options.freeze_to,
        label_fractions=options.label_fractions,
        shots=options.shots,
        repeats=options.repeats,
        seed=options.seed,
        rules=RULES | (PAPER_RULES if options.protocol else {}),
        environment=compute_environment(inputs.device),
    )


def _data_identity(data: LabeledImages) -> tuple[str, ...]:
    """Identifies the images of both splits and their labels; other at each call for images that
    cannot be identified.
    """
    train, test = (data.identity(split) or [uuid.uuid4().hex] for split in ("train", "test"))
    return (*train, *test, data.label_fingerprint())


def run_probe(
    inputs: ProbeInputs, options: ProbeOptions, console: Console, cache: RowCache | None = None
) -> ProbeRecord:
    """Extract features, measure them, and write the record; see `probe` for several processes.

    Args:
        inputs: What is probed.
        options: How.
        console: Where progress goes.
        cache: Rows measured before under the same options, of features that several encoders
            share; it grows.
    """
    protocol = protocol_of(inputs, options)  # before batch norm is recalibrated
    variants = _variants(inputs, options)
    folder = options.cache or default_folder()
    store = FeatureStore.open(folder, console) if options.keep_features else FeatureStore(None)
    start = time.perf_counter()
    extractor = _extractor(inputs, options, store)
    features = _extract(extractor, inputs, options, variants, console)
    if not is_main():
        return _record_of_main()
    with alone():
        health = _health(extractor, variants) if features else []
        notes = _add_memory(inputs, features, console)
        same = overlap(inputs.data, features)
        near = near_duplicates(inputs.data) if options.near_duplicates else None
        extracted = time.perf_counter()
        rows = _measure(inputs, options, features, console, cache)
        labels = _label_rows(inputs, options, variants, features, console)
        took = format_duration(extracted - start), format_duration(time.perf_counter() - extracted)
        console.print(f"features took {took[0]}, probes {took[1]}")
        chosen = _choose_row(rows)
        metadata, data = inputs.metadata, inputs.data
        record = ProbeRecord(
            weights=str(inputs.weights),
            method=metadata.method,
            backbone=metadata.backbone,
            network=network_summary(metadata),
            steps=metadata.training.steps if metadata.training else 0,
            classes=data.classes,
            train_images=data.count("train"),
            test_images=data.count("test"),
            overlap=same.images,
            contradicted=same.contradicted,
            near_duplicates=None if near is None else tuple(near),
            skipped=data.skipped,
            notes=(*data.notes, *notes),
            rows=tuple(measured.row for measured in rows),
            chosen=chosen,
            details=None if chosen is None else rows[chosen].details(chosen),
            health=tuple(health),
            label_efficiency=tuple(labels),
            plots=(),
            protocol=protocol,
        )
        predictions = None if chosen is None else rows[chosen].predictions
        record = _write(record, inputs, options, predictions)
    return _record_of_main(record)


def _record_of_main(record: ProbeRecord | None = None) -> ProbeRecord:
    """The record that the first process has measured, in all of them."""
    measured = from_main(lambda: record and record.to_dict())
    return record or ProbeRecord.model_validate(measured)


def _variants(inputs: ProbeInputs, options: ProbeOptions) -> list[EncoderVariant]:
    """The encoder and its random inits; curves over labels are only of whole images."""
    patches = not label_efficiency.budgets(options)
    encoder, metadata = inputs.encoder, inputs.metadata
    projection = inputs.projection
    variants = encoder_variants(
        encoder, metadata, "pretrained", patches=patches, projection=projection
    )
    for number in range(options.random_inits if options.baselines else 0):
        baseline = random_init(encoder, options.seed + number)
        variants += encoder_variants(baseline, metadata, "random_init", patches=patches)
    return variants


def _extractor(inputs: ProbeInputs, options: ProbeOptions, store: FeatureStore) -> Extractor:
    return Extractor(
        inputs.data,
        store,
        inputs.device,
        grid=_grid(options) if "layers" in inputs.kinds else Grid(),
        recalibrate=options.recalibrate,
        patch_moments="patch_linear" in inputs.kinds,
        seed=options.seed,
    )


def _extract(
    extractor: Extractor,
    inputs: ProbeInputs,
    options: ProbeOptions,
    variants: list[EncoderVariant],
    console: Console,
) -> dict[FeatureSource, list[Features]]:
    """Features of every source and seed; none for fine-tuning alone."""
    if not inputs.kinds - {"finetune"}:
        return {}
    labels = dict.fromkeys(variant.source.label() for variant in variants)
    console.print(f"extracting features: {', '.join(labels)}")
    with_pixels = options.baselines and not label_efficiency.budgets(options)
    return extractor.features(variants, with_pixels=with_pixels)


def _health(extractor: Extractor, variants: list[EncoderVariant]) -> list[HealthRow]:
    """Of the first encoder of each source."""
    first = {variant.source: variant for variant in reversed(variants)}
    return extractor.health([first[v] for v in dict.fromkeys(v.source for v in variants)])


def _grid(options: ProbeOptions) -> Grid:
    return PAPER_GRID if options.protocol else Grid(options.grid_dim)


def _add_memory(
    inputs: ProbeInputs, features: dict[FeatureSource, list[Features]], console: Console
) -> tuple[str, ...]:
    """Add the memory bank to the features of an encoder with a projection; say why if it cannot
    be.
    """
    source = next((s for s in features if s.kind == "pretrained" and s.variant == "image"), None)
    if inputs.projection is None or source is None:
        return ()
    vectors, note = memory_vectors(inputs.weights, inputs.data)
    if vectors is not None:
        features[source] = [with_memory(part, vectors) for part in features[source]]
    if note:
        console.print(note)
    return (note,) if note else ()


def _measure(
    inputs: ProbeInputs,
    options: ProbeOptions,
    features: dict[FeatureSource, list[Features]],
    console: Console,
    cache: RowCache | None,
) -> list[MeasuredRow]:
    """The table, the majority class last."""
    suite = ProbeSuite(
        inputs.data,
        inputs.kinds,
        inputs.device,
        seed=options.seed,
        repeats=options.repeats,
        knn_space=options.knn_space,
        weight_decays=(PAPER_WEIGHT_DECAY,) if options.protocol else linear.GRID,
        console=console,
        cache=cache,
    )
    rows = [row for source, seeds in features.items() for row in suite.rows(source, seeds)]
    if any(source.kind == "pixels" for source in features) and not inputs.data.multilabel:
        measures = {name for measured in rows for name in measured.row.accuracy}
        images = next(iter(features.values()))[0]
        rows.append(MeasuredRow(majority_row(inputs.data, images, measures)))
    return rows


def _label_rows(
    inputs: ProbeInputs,
    options: ProbeOptions,
    variants: list[EncoderVariant],
    features: dict[FeatureSource, list[Features]],
    console: Console,
) -> list[LabelRow]:
    """The label-efficiency curves, fine-tuning on all labels included."""
    encoder, metadata, data, device = inputs.encoder, inputs.metadata, inputs.data, inputs.device
    rows: list[LabelRow] = []
    if "linear" in inputs.kinds and label_efficiency.budgets(options):
        for source, part in features.items():
            rows += label_efficiency.linear_rows(source, part, data, options, device, console)
    if "finetune" in inputs.kinds or options.scratch:
        if options.freeze_to and options.recalibrate and inputs.kinds == {"finetune"}:
            recalibrate(variants, data, options.seed)  # else done before features were extracted
        tuner = label_efficiency.FineTuner(metadata, data, device)
        if "finetune" in inputs.kinds:
            rows += label_efficiency.finetuned_rows(tuner, variants, data, options, console)
        if options.scratch:
            row = label_efficiency.scratch_row(tuner, encoder, metadata, data, options, console)
            rows.append(row)
    return rows


def _choose_row(rows: list[MeasuredRow]) -> int | None:
    """Index of the row of the pretrained weights that did best on held-out training images."""
    own = [i for i, measured in enumerate(rows) if measured.row.source.kind == "pretrained"]
    chosen = choice([rows[i].row for i in own])
    return None if chosen is None else own[chosen]


def _write(
    record: ProbeRecord,
    inputs: ProbeInputs,
    options: ProbeOptions,
    predictions: Predictions | None,
) -> ProbeRecord:
    """Write the record and its figures into the folder asked for, else into the run's own; nowhere
    for a weights file outside of a run.
    """
    run = inputs.weights.parent
    folder, plots = options.to, options.to
    if folder is None and (run / RUN_FILE).is_file():
        folder, plots = run, run / "figures"
    if folder is None or plots is None:
        return record
    drawn = draw_plots(record, plots)
    if predictions is not None:
        title = f"{record.method}, {record.backbone}"
        path, size = plots / "probe-predictions.png", inputs.metadata.image_size
        drawn.append(draw_predictions(predictions, inputs.data, size, path, title))
    record = record.model_copy(update={"plots": tuple(map(str, drawn))})
    record.write(folder / PROBE_FILE)
    return record
