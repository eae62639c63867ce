"""The measures of a probe: kNN, linear, SVM and MLP accuracy of every stage of a source."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple, Self

import torch
from rich.console import Console
from torch import Tensor

from ssltool.probing import linear, mlp, svm
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import Features
from ssltool.probing.knn import knn_accuracy
from ssltool.probing.linear import LinearResult
from ssltool.probing.options import Kind
from ssltool.runs.records import MEASURES, POOLED, Details, FeatureSource, Measure, ProbeRow

KS: tuple[tuple[Measure, int], ...] = (("knn5", 5), ("knn20", 20), ("knn200", 200))
PIXELS = "pixels"


class MeasuredRow(NamedTuple):
    """A row of the table and, after a linear probe, its predictions class by class.

    Attributes:
        row: The row.
        per_class: Accuracy in percent of each class; None for a class without test images.
        confusion: Counts, true class by predicted class; empty without a linear probe.
    """

    row: ProbeRow
    per_class: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

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
            images have several classes.
        device: Where probes are computed.
        seed: Of the splits of the training images, and of what is trained.
        repeats: Seeds over which the MLP's accuracy is averaged.
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
        console: Console,
        cache: RowCache | None = None,
    ) -> None:
        self._data, self._kinds, self._device = data, kinds, device
        self._seed, self._repeats, self._console = seed, repeats, console
        self._cache = {} if cache is None else cache

    def rows(self, source: FeatureSource, features: Features) -> list[MeasuredRow]:
        """Rows of one source: the pooled vector or the pixels, then every stage if asked for."""
        if features.key not in self._cache:
            self._cache[features.key] = self._measured_rows(source, features)
        return [measured.with_(source=source) for measured in self._cache[features.key]]

    def _measured_rows(self, source: FeatureSource, features: Features) -> list[MeasuredRow]:
        rows: list[MeasuredRow] = []
        pooled = features.train.stages.get(POOLED)
        for stage, values in features.train.stages.items():
            whole = stage in {POOLED, PIXELS}
            if not whole and "layers" not in self._kinds:
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
            measured = self._measure(MeasuredRow(row), split, whole=whole)
            accuracy = measured.row.accuracy
            shown = ", ".join(
                f"{name} {accuracy[name]:.2f} %" for name in MEASURES if name in accuracy
            )
            self._console.print(f"{source.label()}, {stage}: {shown}")
            rows.append(measured)
        return rows

    def _measure(self, measured: MeasuredRow, data: _ProbeData, *, whole: bool) -> MeasuredRow:
        """Add what was asked for to a row."""
        row = measured.row
        if self._data.multilabel:
            return MeasuredRow(_with_svm(row, data, self._seed))
        classes = len(self._data.classes)
        if {"linear", "layers"} & self._kinds:
            result = linear.fit_and_score(*data.labeled, classes, self._seed)
            measured = _with_linear(row, result, data, classes)
            row = measured.row
        if "knn" in self._kinds:
            by_k = knn_accuracy(*data.labeled, classes, ks=[k for _, k in KS])
            row = _with(row, {name: by_k[k] for name, k in KS})
        if whole and "svm" in self._kinds:
            row = _with_svm(row, data, self._seed)
        if whole and "mlp" in self._kinds:
            row = _with_mlp(row, data, classes, self._seed, self._repeats)
        return measured._replace(row=row)


def majority_row(data: LabeledImages, measures: set[Measure]) -> ProbeRow:
    """The row of always predicting the most frequent class of the training images.

    Args:
        data: Images with one class each.
        measures: Accuracies to fill in.
    """
    counts = torch.bincount(data.labels("train"), minlength=len(data.classes))
    accuracy = 100 * float((data.labels("test") == counts.argmax()).double().mean())
    row = ProbeRow(source=FeatureSource(kind="majority"), stage="", dim=0, accuracy={})
    return _with(row, {name: accuracy for name in MEASURES if name in measures - {"svm_map"}})


class _ProbeData(NamedTuple):
    """One stage's features of both splits, with labels ``[N]`` and targets ``[N, C]``, see
    `ssltool.probing.svm`, on the device.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    train_t: Tensor
    test_t: Tensor

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
        return cls(*(part.to(device) for part in parts))

    @property
    def labeled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training features and labels, test features and labels."""
        return self.train_x, self.train_y, self.test_x, self.test_y


def _with(row: ProbeRow, accuracy: dict[Measure, float]) -> ProbeRow:
    rounded = {name: round(value, 3) for name, value in accuracy.items()}
    return row.model_copy(update={"accuracy": row.accuracy | rounded})


def _with_linear(
    row: ProbeRow, result: LinearResult, data: _ProbeData, classes: int
) -> MeasuredRow:
    predictions = result.classifier.predict(data.test_x)
    pairs = torch.bincount(data.test_y * classes + predictions, minlength=classes * classes)
    row = _with(row, {"linear": result.accuracy}).model_copy(
        update={
            "weight_decay": result.weight_decay,
            "converged": {"linear": result.converged},
        }
    )
    return MeasuredRow(
        row,
        tuple(None if value is None else round(value, 3) for value in result.per_class),
        tuple(map(tuple, pairs.view(classes, classes).tolist())),
    )


def _with_svm(row: ProbeRow, data: _ProbeData, seed: int) -> ProbeRow:
    """Top-1 accuracy only where each test image has one class."""
    result = svm.fit_and_score(data.train_x, data.train_t, data.test_x, data.test_t, seed)
    accuracy: dict[Measure, float] = {"svm_map": result.mean_ap}
    if bool(((data.test_t == 1).sum(1) == 1).all()):
        correct = result.classifier.scores(data.test_x).argmax(1) == data.test_t.argmax(1)
        accuracy = {"svm": 100 * float(correct.double().mean()), **accuracy}
    converged = row.converged | {"svm": result.converged}
    return _with(row, accuracy).model_copy(update={"converged": converged})


def _with_mlp(row: ProbeRow, data: _ProbeData, classes: int, seed: int, repeats: int) -> ProbeRow:
    scores = [mlp.fit_and_score(*data.labeled, classes, seed + r) for r in range(repeats)]
    row = _with(row, {"mlp": statistics.fmean(scores)})
    if len(scores) == 1:
        return row
    return row.model_copy(update={"std": {"mlp": round(statistics.stdev(scores), 3)}})


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
