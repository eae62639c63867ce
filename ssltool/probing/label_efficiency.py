"""Label efficiency: accuracy of frozen, fine-tuned and from-scratch networks over label budgets."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.precision import choose_precision
from ssltool.encoders.transform import InputTransform
from ssltool.probing import finetune, linear
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import (
    EncoderVariant,
    Features,
    encoder_variants,
    random_init,
)
from ssltool.probing.finetune import Schedule
from ssltool.probing.options import ProbeOptions
from ssltool.probing.splits import label_subset
from ssltool.runs.records import POOLED, FeatureSource, LabelProtocol, LabelRow

_IN_MEMORY = 2**30  # bytes of decoded test images kept from one network to the next


class LabelBudget(NamedTuple):
    """How many labels may be used: a fraction of each class, or a number of images per class."""

    fraction: float | None = None
    shots: int | None = None

    def subset(self, labels: Tensor, seed: int) -> Tensor:
        """Indices int64 of the images that keep their label, shuffled."""
        return label_subset(labels, seed, fraction=self.fraction, shots=self.shots)


ALL_LABELS = LabelBudget(fraction=1.0)


def budgets(options: ProbeOptions) -> list[LabelBudget]:
    """The points of the curves: shots, then fractions, ascending."""
    by_shots = [LabelBudget(shots=shots) for shots in sorted(options.shots)]
    return by_shots + [LabelBudget(fraction=f) for f in sorted(options.label_fractions)]


def linear_rows(
    source: FeatureSource,
    features: Features,
    data: LabeledImages,
    options: ProbeOptions,
    device: torch.device,
    console: Console,
) -> list[LabelRow]:
    """Linear probes of a source's pooled features, one row per label budget."""
    train, test = features.train, features.test
    labels = data.labels("train")
    row_of = torch.full((len(labels),), -1)
    row_of[train.indices] = torch.arange(len(train.indices))
    test_x = test.stages[POOLED].to(device)
    test_y = data.labels("test", test.indices).to(device)

    def accuracy(budget: LabelBudget, seed: int) -> tuple[float, int]:
        chosen = row_of[budget.subset(labels, seed)]
        # Unreadable images have no row. In order, so that all labels give the very probe of the
        # main table.
        chosen = chosen[chosen >= 0].sort().values
        x = train.stages[POOLED][chosen].to(device)
        y = data.labels("train", train.indices[chosen]).to(device)
        result = linear.fit_and_score(x, y, test_x, test_y, len(data.classes), seed)
        return result.accuracy, len(chosen)

    rows = []
    for budget in budgets(options):
        results = [accuracy(budget, options.seed + r) for r in range(options.repeats)]
        accuracies, counts = zip(*results, strict=True)
        rows.append(_row(source, "linear", budget, counts[-1], accuracies, console))
    return rows


class FineTuner:
    """Trains copies of a network on labeled images and tests them.

    Args:
        encoder: The network, for which the compute precision is chosen.
        metadata: Of its weights.
        data: Labeled images with one class each.
        device: Where networks are trained.
    """

    def __init__(
        self,
        encoder: Encoder,
        metadata: EncoderMetadata,
        data: LabeledImages,
        device: torch.device,
    ) -> None:
        self._data, self._device = data, device
        self._transform, self._size = InputTransform.of(metadata), metadata.read_size
        precision = choose_precision(
            "auto", encoder, self._transform.size, encoder.in_channels, device
        )
        self._dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32
        fits = data.count("test") * self._size**2 * 3 <= _IN_MEMORY
        self._test = list(data.labeled_batches("test", self._size)) if fits else None

    def accuracy(self, network: Encoder, indices: Tensor, schedule: Schedule, seed: int) -> float:
        """Test accuracy in percent after training a copy.

        Args:
            network: Initial weights.
            indices: Training images, int64, shuffled.
            schedule: How long and how fast.
            seed: Of the order of the images and their augmentation.
        """
        # Images beyond the number seen in training are not decoded.
        indices = indices[: schedule.images]
        batches = list(self._data.labeled_batches("train", self._size, indices.tolist()))
        start = copy.deepcopy(network)
        start.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = finetune.finetune(
            start,
            torch.cat([images for images, _ in batches]),
            torch.cat([labels for _, labels in batches]),
            self._transform,
            len(self._data.classes),
            seed,
            schedule=schedule,
            dtype=self._dtype,
        )
        test = self._test or self._data.labeled_batches("test", self._size)
        return finetune.accuracy(trained, test, self._transform, dtype=self._dtype)


def finetuned_rows(
    tuner: FineTuner,
    variants: Iterable[EncoderVariant],
    data: LabeledImages,
    options: ProbeOptions,
    console: Console,
) -> list[LabelRow]:
    """Fine-tuned networks, one row per label budget and network; those of patches are left out."""
    labels, schedule = data.labels("train"), Schedule(images=options.finetune_images)
    encoders = [(v.source, v.network) for v in variants if isinstance(v.network, Encoder)]
    rows = []
    for budget in budgets(options) or [ALL_LABELS]:
        subsets = [budget.subset(labels, options.seed + r) for r in range(options.repeats)]
        for source, network in encoders:
            accuracies = [
                tuner.accuracy(network, subset, schedule, options.seed + r)
                for r, subset in enumerate(subsets)
            ]
            rows.append(_row(source, "finetune", budget, len(subsets[0]), accuracies, console))
    return rows


def scratch_row(
    tuner: FineTuner,
    encoder: Encoder,
    metadata: EncoderMetadata,
    data: LabeledImages,
    options: ProbeOptions,
    console: Console,
) -> LabelRow:
    """A network trained from random init on all labels, for as many images as pretraining saw."""
    training = metadata.training
    steps, batch_size = (training.steps, training.batch_size) if training else (0, 0)
    schedule = Schedule(images=steps * batch_size or options.finetune_images)
    labels, seeds = data.labels("train"), [options.seed + r for r in range(options.repeats)]
    networks = [random_init(encoder, seed) for seed in seeds]
    accuracies = [
        tuner.accuracy(network, ALL_LABELS.subset(labels, seed), schedule, seed)
        for network, seed in zip(networks, seeds, strict=True)
    ]
    source = encoder_variants(encoder, metadata, "random_init", patches=False)[0].source
    return _row(source, "scratch", ALL_LABELS, len(labels), accuracies, console)


def _row(
    source: FeatureSource,
    protocol: LabelProtocol,
    budget: LabelBudget,
    images: int,
    accuracies: Sequence[float],
    console: Console,
) -> LabelRow:
    row = LabelRow(
        source=source,
        protocol=protocol,
        fraction=budget.fraction,
        shots=budget.shots,
        images=images,
        accuracy=round(statistics.fmean(accuracies), 3),
        std=round(statistics.stdev(accuracies), 3) if len(accuracies) > 1 else None,
        repeats=len(accuracies),
    )
    console.print(f"{row.curve()}, {row.images} labeled images: {row.score()} %")
    return row
