"""Label efficiency: accuracy of frozen, fine-tuned and from-scratch networks over label budgets."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
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
from ssltool.probing.measures import binomial_error
from ssltool.probing.options import ProbeOptions
from ssltool.probing.splits import label_subset
from ssltool.runs.probe_record import POOLED, FeatureSource, LabelProtocol, LabelRow

_IN_MEMORY = 2**30  # bytes of decoded test images kept from one network to the next


class LabelBudget(NamedTuple):
    """How many labels may be used: a fraction of each class, or a number of images per class."""

    fraction: float | None = None
    shots: int | None = None

    def subset(self, data: LabeledImages, seed: int) -> Tensor:
        """Indices int64 of the training images that keep their label, shuffled; of those that are
        not known to be unreadable, which would leave a class without a label.
        """
        readable = data.readable("train")
        labels = data.labels("train", readable)
        return readable[label_subset(labels, seed, fraction=self.fraction, shots=self.shots)]


RECIPE_FRACTIONS = (0.01, 0.02, 0.04, 0.1, 0.2)
"""Of the labels, by which Wu et al. 2018 fine-tune."""

ALL_LABELS = LabelBudget(fraction=1.0)


def budgets(options: ProbeOptions) -> list[LabelBudget]:
    """The points of the curves: shots, then fractions, ascending; those of the recipe if none are
    named.
    """
    by_shots = [LabelBudget(shots=shots) for shots in sorted(options.shots)]
    fractions = options.label_fractions
    if options.recipe and not by_shots:
        fractions = fractions or RECIPE_FRACTIONS
    return by_shots + [LabelBudget(fraction=f) for f in sorted(fractions)]


def _schedule(options: ProbeOptions, labeled: int) -> Schedule:
    """How networks are fine-tuned on a number of labeled images."""
    if options.recipe:
        return Schedule.wu2018(labeled, mirror=options.mirror)
    return Schedule(images=options.finetune_images, mirror=options.mirror)


def linear_rows(
    source: FeatureSource,
    features: Sequence[Features],
    data: LabeledImages,
    options: ProbeOptions,
    device: torch.device,
    console: Console,
) -> list[LabelRow]:
    """Linear probes of a source's pooled features, one row per label budget.

    A source of several random initializations gives each repeat one of them, in turn.
    """

    def accuracy(budget: LabelBudget, repeat: int) -> tuple[float, int]:
        train, test, _ = features[repeat % len(features)]
        seed = options.seed + repeat
        row_of = torch.full((data.total("train"),), -1)
        row_of[train.indices] = torch.arange(len(train.indices))
        # In order, so that all labels give the very probe of the main table.
        chosen = row_of[budget.subset(data, seed)].sort().values
        x = train.stages[POOLED][chosen].to(device)
        y = data.labels("train", train.indices[chosen]).to(device)
        test_x = test.stages[POOLED].to(device)
        test_y = data.labels("test", test.indices).to(device)
        result = linear.fit_and_score(x, y, test_x, test_y, len(data.classes), seed)
        return result.accuracy, len(chosen)

    rows = []
    for budget in budgets(options):
        results = [accuracy(budget, repeat) for repeat in range(options.repeats)]
        accuracies, counts = zip(*results, strict=True)
        test_images = len(features[0].test.indices)
        rows.append(_row(source, "linear", budget, counts[-1], accuracies, test_images, console))
    return rows


class FineTuner:
    """Trains copies of a network on labeled images and tests them.

    Args:
        metadata: Of the weights.
        data: Labeled images with one class each.
        device: Where networks are trained.
    """

    def __init__(
        self, metadata: EncoderMetadata, data: LabeledImages, device: torch.device
    ) -> None:
        self._data, self._device = data, device
        self._transform, self._size = InputTransform.of(metadata), metadata.read_size
        # Decided by the device alone, not by timing: the same command gives the same number.
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        fits = data.total("test") * self._size**2 * 3 <= _IN_MEMORY
        self._test = list(data.labeled_batches("test", self._size)) if fits else None

    def subset(self, budget: LabelBudget, seed: int) -> Tensor:
        """As `LabelBudget.subset`, of images that can be read: drawn anew while some cannot."""
        while True:
            unreadable, indices = (
                len(self._data.unreadable("train")),
                budget.subset(self._data, seed),
            )
            for _ in self._data.batches("train", self._size, indices=indices.tolist()):
                pass
            if len(self._data.unreadable("train")) == unreadable:
                return indices

    def accuracy(
        self,
        network: Encoder,
        indices: Tensor,
        schedule: Schedule,
        seed: int,
        freeze_to: str | None = None,
    ) -> float:
        """Test accuracy in percent after training a copy.

        Args:
            network: Initial weights.
            indices: Training images, int64, shuffled.
            schedule: How long and how fast.
            seed: Of the order of the images and their augmentation, and of the new weights of a
                network that is frozen in part.
            freeze_to: Stage up to which the weights are frozen; the rest is reinitialized.
        """
        # Images beyond the number seen in training are not decoded.
        indices = indices[: schedule.images]
        batches = list(self._data.labeled_batches("train", self._size, indices.tolist()))
        if freeze_to is None:
            start = copy.deepcopy(network)
        else:
            start = finetune.with_new_rest(network, freeze_to, seed)
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
            freeze_to=freeze_to,
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
    """Fine-tuned networks, one row per label budget, source and frozen prefix that was asked for;
    those of patches are left out.

    A source of several random initializations gives each repeat one of them, in turn.
    """
    encoders: dict[FeatureSource, list[Encoder]] = {}
    for variant in variants:
        if isinstance(variant.network, Encoder):
            encoders.setdefault(variant.source, []).append(variant.network)
    stages: tuple[str | None, ...] = options.freeze_to or (None,)
    rows = []
    for budget in budgets(options) or [ALL_LABELS]:
        subsets = [tuner.subset(budget, options.seed + r) for r in range(options.repeats)]
        for freeze_to, (source, networks) in product(stages, encoders.items()):
            accuracies = [
                tuner.accuracy(
                    networks[r % len(networks)],
                    subset,
                    _schedule(options, len(subset)),
                    options.seed + r,
                    freeze_to,
                )
                for r, subset in enumerate(subsets)
            ]
            given = len(subsets[0])
            images, tested = _schedule(options, given).used(given), data.count("test")
            row = _row(source, "finetune", budget, images, accuracies, tested, console, freeze_to)
            rows.append(row)
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
    images = steps * batch_size or options.finetune_images
    schedule = Schedule(images=images, mirror=options.mirror)
    seeds = [options.seed + r for r in range(options.repeats)]
    networks = [random_init(encoder, seed) for seed in seeds]
    accuracies = [
        tuner.accuracy(network, tuner.subset(ALL_LABELS, seed), schedule, seed)
        for network, seed in zip(networks, seeds, strict=True)
    ]
    source = encoder_variants(encoder, metadata, "random_init", patches=False)[0].source
    images, tested = schedule.used(data.count("train")), data.count("test")
    return _row(source, "scratch", ALL_LABELS, images, accuracies, tested, console)


def _row(
    source: FeatureSource,
    protocol: LabelProtocol,
    budget: LabelBudget,
    images: int,
    accuracies: Sequence[float],
    test_images: int,
    console: Console,
    freeze_to: str | None = None,
) -> LabelRow:
    mean = statistics.fmean(accuracies)
    row = LabelRow(
        source=source,
        protocol=protocol,
        freeze_to=freeze_to,
        fraction=budget.fraction,
        shots=budget.shots,
        images=images,
        accuracy=round(mean, 3),
        standard_error=round(binomial_error(mean, test_images), 3),
        std=round(statistics.stdev(accuracies), 3) if len(accuracies) > 1 else None,
        repeats=len(accuracies),
    )
    text = f"{row.curve()}, {row.images} labeled images: {row.score()} %"
    console.print(text)
    return row
