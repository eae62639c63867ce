"""The measures of a probe: kNN, linear, SVM and MLP accuracy of every stage of a source."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import torch
from rich.console import Console
from torch import Tensor

from ssltool.probing import linear, mlp, patch_linear, svm
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import Features
from ssltool.probing.features import PATCH_MOMENTS
from ssltool.probing.knn import held_out_accuracy, knn_accuracy
from ssltool.probing.knn_space import space_of
from ssltool.probing.linear import LinearResult
from ssltool.probing.options import Kind, KnnSpace
from ssltool.probing.predictions import Predictions
from ssltool.runs.probe_record import (
    BANK,
    MEASURES,
    POOLED,
    PROJECTION,
    Details,
    FeatureSource,
    Measure,
    ProbeRow,
)

KS: tuple[tuple[Measure, int], ...] = (("knn5", 5), ("knn20", 20), ("knn200", 200))
PIXELS = "pixels"
LINEAR: Measure = "linear"
CHOSEN_BY: tuple[Measure, ...] = (LINEAR, "svm_map", "knn20", "mlp")
"""Measures by which a row is chosen on held-out training images, in order of preference."""
_CHOICE = 20  # neighbors


class MeasuredRow(NamedTuple):
    """A row of the table and, after a linear probe, its predictions class by class.

    Attributes:
        row: The row.
        per_class: Accuracy in percent of each class; None for a class without test images.
        confusion: Counts, true class by predicted class; empty without a linear probe.
        predictions: Of the test images; None without a linear probe.
    """

    row: ProbeRow
    per_class: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    predictions: Predictions | None = None

    def with_(self, **fields: Any) -> MeasuredRow:
        """The same measurements with other fields of the row."""
        return self._replace(row=self.row.model_copy(update=fields))

    def details(self, index: int) -> Details | None:
        """The predictions, as those of the row of an index."""
        if not self.confusion:
            return None
        return Details(row=index, per_class=self.per_class, confusion=self.confusion)


RowCache = dict[str, list[MeasuredRow]]
"""Key of `Features` -> their rows."""


class ProbeSuite:
    """Measures the features of a source.

    Args:
        data: Labels of the images.
        kinds: What to measure; ``svm`` and ``mlp`` only on pooled vectors and pixels, unless
            images have several classes. The projection and the bank are measured by kNN alone,
            which is what they are for.
        device: Where probes are computed.
        seed: Of the splits of the training images, and of what is trained.
        repeats: Seeds over which the MLP's accuracy is averaged.
        knn_space: Where neighbors are searched.
        weight_decays: Of the linear probe; the best on held-out training images is taken.
        console: Where progress goes.
        cache: Rows of features measured before in the same way; it grows.
    """

    def __init__(
        self,
        data: LabeledImages,
        kinds: frozenset[Kind],
        device: torch.device,
        *,
        seed: int,
        repeats: int,
        knn_space: KnnSpace,
        weight_decays: Sequence[float] = linear.GRID,
        console: Console,
        cache: RowCache | None = None,
    ) -> None:
        self._knn_space, self._weight_decays = knn_space, weight_decays
        self._data, self._kinds, self._device = data, kinds, device
        self._seed, self._repeats, self._console = seed, repeats, console
        self._cache = {} if cache is None else cache

    def rows(self, source: FeatureSource, seeds: Sequence[Features]) -> list[MeasuredRow]:
        """Rows of one source: the pooled vector or the pixels, then every stage if asked for.

        Args:
            source: Where the features come from.
            seeds: Its features, of each random initialization.
        """
        measured = []
        for number, features in enumerate(seeds, 1):
            if features.key not in self._cache:
                if len(seeds) > 1:
                    self._console.print(f"{source.label()}, {number} of {len(seeds)}:")
                self._cache[features.key] = self._measured_rows(source, features)
            measured.append(self._cache[features.key])
        return _with_choice([_mean_row(source, rows) for rows in zip(*measured, strict=True)])

    def _measured_rows(self, source: FeatureSource, features: Features) -> list[MeasuredRow]:
        rows: list[MeasuredRow] = []
        pooled = features.train.stages.get(POOLED)
        for stage, values in features.train.stages.items():
            kinds = self._kinds_of(stage)
            if not kinds:
                continue
            if rows and pooled is not None and _equal(values, pooled):
                # The last stage's average is the pooled vector.
                rows.append(rows[0].with_(stage=stage))
                continue
            split = _ProbeData.of(features, stage, self._data, self._device)
            row = ProbeRow(
                source=source,
                stage="" if stage == PIXELS else stage,
                dim=values.shape[1],
                accuracy={},
            )
            measured = self._measure(MeasuredRow(row), split, kinds)
            if stage == POOLED and PATCH_MOMENTS in features.train.stages:
                moments = _ProbeData.of(features, PATCH_MOMENTS, self._data, self._device)
                measured = self._with_patches(measured, moments)
            if not measured.row.accuracy:
                continue
            scores = (f"{name} {measured.row.score(name)} %" for name in measured.row.accuracy)
            self._console.print(f"{source.label()}, {stage}: {', '.join(scores)}")
            rows.append(measured)
        return rows

    def _kinds_of(self, stage: str) -> frozenset[Kind]:
        """What is measured of a stage."""
        if stage in {POOLED, PIXELS}:
            return self._kinds
        if stage in {PROJECTION, BANK}:
            return self._kinds & {"knn"}
        if stage == PATCH_MOMENTS:
            return frozenset()
        return self._kinds - {"svm", "mlp"} if "layers" in self._kinds else frozenset()

    def _with_patches(self, measured: MeasuredRow, moments: _ProbeData) -> MeasuredRow:
        """Add the linear protocol on the grid of patches."""
        classes = len(self._data.classes)
        accuracy = patch_linear.fit_and_score(*moments.labeled, classes, self._seed)
        row = _with(measured.row, {"patch_linear": accuracy}, len(moments.test_y))
        return measured._replace(row=row)

    def _measure(
        self, measured: MeasuredRow, data: _ProbeData, kinds: frozenset[Kind]
    ) -> MeasuredRow:
        """Add what was asked for to a row."""
        row = measured.row
        if self._data.multilabel:
            return MeasuredRow(_with_svm(row, data, self._seed))
        classes = len(self._data.classes)
        if {"linear", "layers"} & kinds:
            grid = self._weight_decays
            result = linear.fit_and_score(*data.labeled, classes, self._seed, grid=grid)
            measured = _with_linear(row, result, data, classes)
            row = measured.row
        if "knn" in kinds:
            to_space = space_of(data.train_x, self._knn_space)
            train_x, test_x = to_space(data.train_x), to_space(data.test_x)
            ks = [k for _, k in KS]
            by_k = knn_accuracy(train_x, data.train_y, test_x, data.test_y, classes, ks=ks)
            held_out = held_out_accuracy(train_x, data.train_y, classes, self._seed, k=_CHOICE)
            accuracies = {name: by_k[k] for name, k in KS}
            row = _with(row, accuracies, len(data.test_y), {"knn20": held_out})
        if "svm" in kinds:
            row = _with_svm(row, data, self._seed)
        if "mlp" in kinds:
            row = _with_mlp(row, data, classes, self._seed, self._repeats)
        return measured._replace(row=row)


def choice(rows: Sequence[ProbeRow]) -> int | None:
    """Index of the row that does best on held-out training images, the first of equals.

    Rows are compared by the first measure of `CHOSEN_BY` that they were held out for; without any,
    the first row is taken. Test images are not looked at.
    """
    measure = next((m for m in CHOSEN_BY if any(m in row.held_out for row in rows)), None)
    if measure is None:
        return 0 if rows else None
    return max(range(len(rows)), key=lambda i: (rows[i].held_out.get(measure, -1.0), -i))


def _with_choice(rows: list[MeasuredRow]) -> list[MeasuredRow]:
    chosen = choice([measured.row for measured in rows])
    return [
        measured.with_(chosen=True) if i == chosen else measured for i, measured in enumerate(rows)
    ]


def _mean_row(source: FeatureSource, seeds: Sequence[MeasuredRow]) -> MeasuredRow:
    """The mean of the rows of several seeds, and its deviation; details are of the first."""
    first = seeds[0].with_(source=source)
    if len(seeds) == 1:
        return first
    accuracies = {m: [s.row.accuracy[m] for s in seeds] for m in first.row.accuracy}
    held_out = {m: [s.row.held_out[m] for s in seeds] for m in first.row.held_out}
    errors = {m: [s.row.standard_error[m] for s in seeds] for m in first.row.standard_error}
    return first.with_(
        accuracy={m: round(statistics.fmean(values), 3) for m, values in accuracies.items()},
        # All seeds are tested on the same images: their mean is as uncertain as one of them.
        standard_error={m: round(statistics.fmean(values), 3) for m, values in errors.items()},
        std={m: round(statistics.stdev(values), 3) for m, values in accuracies.items()},
        held_out={m: round(statistics.fmean(values), 3) for m, values in held_out.items()},
        seeds=len(seeds),
    )


def majority_row(data: LabeledImages, features: Features, measures: set[Measure]) -> ProbeRow:
    """The row of always predicting the most frequent class of the training images.

    Args:
        data: Images with one class each.
        features: Of the images that could be read, which alone are counted.
        measures: Accuracies to fill in.
    """
    train, test = (
        data.labels("train", features.train.indices),
        data.labels("test", features.test.indices),
    )
    majority = torch.bincount(train, minlength=len(data.classes)).argmax()
    accuracy = 100 * float((test == majority).double().mean())
    row = ProbeRow(source=FeatureSource(kind="majority"), stage="", dim=0, accuracy={})
    return _with(row, {m: accuracy for m in MEASURES if m in measures - {"svm_map"}}, len(test))


def binomial_error(percent: float, images: int) -> float:
    """Standard error of an accuracy on some test images.

    That of the binomial distribution, sqrt(p (1 - p) / n). At 0 and 100 % it would be zero however
    few images there are, so p is moved there by half an image.

    Args:
        percent: Accuracy, from 0 to 100.
        images: Number of test images n.

    Returns:
        In percentage points.
    """
    half = 50 / images
    inside = min(max(percent, half), 100 - half)
    return math.sqrt(inside * (100 - inside) / images)


class _ProbeData(NamedTuple):
    """One stage's features of both splits, with labels ``[N]`` and targets ``[N, C]``, see
    `ssltool.probing.svm`, and the index ``[N]`` of each test image in its split; on the device.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    train_t: Tensor
    test_t: Tensor
    test_indices: Tensor

    @classmethod
    def of(cls, features: Features, stage: str, data: LabeledImages, device: torch.device) -> Self:
        """Collect them; on a CPU the features stay memory-mapped. Labels of images with several
        classes are zeros.
        """
        train, test = features.train, features.test
        if data.multilabel:
            labels = (torch.zeros_like(train.indices), torch.zeros_like(test.indices))
        else:
            labels = (data.labels("train", train.indices), data.labels("test", test.indices))
        targets = (data.targets("train", train.indices), data.targets("test", test.indices))
        parts = (train.stages[stage], labels[0], test.stages[stage], labels[1], *targets)
        moved = [part.to(device) for part in (*parts, test.indices)]
        return cls(*moved)

    @property
    def labeled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training features and labels, test features and labels."""
        return self.train_x, self.train_y, self.test_x, self.test_y


def _with(
    row: ProbeRow,
    accuracy: dict[Measure, float],
    images: int,
    held_out: Mapping[Measure, float | None] = MappingProxyType({}),
) -> ProbeRow:
    """Add accuracies on some test images, with their standard errors."""
    errors = {name: round(binomial_error(value, images), 3) for name, value in accuracy.items()}
    rounded = {name: round(value, 3) for name, value in accuracy.items()}
    chosen_by = {name: round(value, 3) for name, value in held_out.items() if value is not None}
    return row.model_copy(
        update={
            "accuracy": row.accuracy | rounded,
            "standard_error": row.standard_error | errors,
            "held_out": row.held_out | chosen_by,
        }
    )


def _with_linear(
    row: ProbeRow, result: LinearResult, data: _ProbeData, classes: int
) -> MeasuredRow:
    probability, predicted = result.classifier.logits(data.test_x).softmax(1).max(1)
    pairs = torch.bincount(data.test_y * classes + predicted, minlength=classes * classes)
    accuracy = {LINEAR: result.accuracy}
    row = _with(row, accuracy, len(data.test_y), {LINEAR: result.held_out}).model_copy(
        update={
            "weight_decay": result.weight_decay,
            "converged": {"linear": result.converged},
        }
    )
    return MeasuredRow(
        row,
        tuple(None if value is None else round(value, 3) for value in result.per_class),
        tuple(map(tuple, pairs.view(classes, classes).tolist())),
        Predictions(*(t.cpu() for t in (data.test_indices, data.test_y, predicted, probability))),
    )


def _with_svm(row: ProbeRow, data: _ProbeData, seed: int) -> ProbeRow:
    """Top-1 accuracy only where each test image has one class."""
    result = svm.fit_and_score(data.train_x, data.train_t, data.test_x, data.test_t, seed)
    if bool(((data.test_t == 1).sum(1) == 1).all()):
        correct = result.classifier.scores(data.test_x).argmax(1) == data.test_t.argmax(1)
        row = _with(row, {"svm": 100 * float(correct.double().mean())}, len(data.test_t))
    held_out = {} if result.held_out is None else {"svm_map": round(result.held_out, 3)}
    # Of a perfect ranking, or of one image, all resamples are equal.
    error = result.standard_error or binomial_error(result.mean_ap, len(data.test_t))
    return row.model_copy(
        update={
            "accuracy": row.accuracy | {"svm_map": round(result.mean_ap, 3)},
            "standard_error": row.standard_error | {"svm_map": round(error, 3)},
            "held_out": row.held_out | held_out,
            "converged": row.converged | {"svm": result.converged},
        }
    )


def _with_mlp(row: ProbeRow, data: _ProbeData, classes: int, seed: int, repeats: int) -> ProbeRow:
    results = [mlp.fit_and_score(*data.labeled, classes, seed + r) for r in range(repeats)]
    held_out = [result.held_out for result in results if result.held_out is not None]
    accuracies = [result.accuracy for result in results]
    mean_held_out = statistics.fmean(held_out) if held_out else None
    row = _with(
        row, {"mlp": statistics.fmean(accuracies)}, len(data.test_y), {"mlp": mean_held_out}
    )
    if repeats == 1:
        return row
    return row.model_copy(update={"std": {"mlp": round(statistics.stdev(accuracies), 3)}})


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
