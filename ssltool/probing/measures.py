"""Rows of the probe's table: every measure of one kind of features."""

from __future__ import annotations

import statistics
from typing import Any, Literal, NamedTuple, Self

import torch
from rich.console import Console
from torch import Tensor

from ssltool.device import best_device
from ssltool.probing import features, linear, mlp, svm
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import Features
from ssltool.probing.knn import knn_accuracy

Kind = Literal["linear", "layers", "knn", "finetune", "svm", "mlp"]

KS = (5, 20, 200)  # neighbors: few labels, and the paper's
MEASURES = ("linear", *(f"knn{k}" for k in KS), "svm", "svm_map", "mlp")
_WHOLE = (features.POOLED, "pixels")


class Scored(NamedTuple):
    """A row of the table, and what a linear probe of it says class by class."""

    row: dict[str, Any]
    details: dict[str, Any]


def score(
    name: str,
    found: Features,
    data: LabeledImages,
    kinds: frozenset[Kind],
    seed: int,
    repeats: int,
    console: Console,
) -> list[Scored]:
    """Rows for one kind of features: the pooled one (or pixels), then every stage if asked for.

    Args:
        name: What the features are called.
        found: The features.
        data: Their labels.
        kinds: What to measure; ``svm`` and ``mlp`` only on whole vectors, unless images have
            several classes.
        seed: Of the splits of the training images, and of what is trained.
        repeats: Seeds of which the mean and the deviation are given, where the seed matters.
        console: Where progress goes.
    """
    train, test = found.train, found.test
    device = best_device()
    scored: list[Scored] = []
    for stage, values in train.stages.items():
        if stage not in _WHOLE and "layers" not in kinds:
            continue
        row: dict[str, Any] = {"features": name, "stage": stage, "numbers": values.shape[1]}
        if scored and _same(
            values, train.stages[features.POOLED]
        ):  # the last stage's average is the pooled vector
            scored.append(Scored({**scored[0].row, "stage": stage}, scored[0].details))
            continue
        split = _Split.on(device, values, test.stages[stage], data, train.places, test.places)
        details: dict[str, Any] = {}
        if data.several:
            row |= _machines(split, seed)
        else:
            if {"linear", "layers"} & kinds:
                measured, details = _linear(split, data, seed)
                row |= measured
            if "knn" in kinds:
                near = knn_accuracy(*split[:4], len(data.classes), ks=KS)
                row |= {f"knn{k}": round(accuracy, 3) for k, accuracy in near.items()}
            if stage in _WHOLE and "svm" in kinds:
                row |= _machines(split, seed)
            if stage in _WHOLE and "mlp" in kinds:
                row |= _mlps(split, len(data.classes), seed, repeats)
        so_far = ", ".join(f"{key} {row[key]:.2f} %" for key in MEASURES if key in row)
        console.print(f"{name}, {stage}: {so_far}")
        scored.append(Scored(row, details))
    return scored


class _Split(NamedTuple):
    """One stage's features and labels of both splits, on the device; targets ``[N, C]`` as in
    `ssltool.probing.svm`.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    train_t: Tensor
    test_t: Tensor

    @classmethod
    def on(
        cls,
        device: torch.device,
        train: Tensor,
        test: Tensor,
        data: LabeledImages,
        rows: Tensor,
        asked: Tensor,
    ) -> Self:
        """Put everything together; on a CPU the features stay in their files."""
        if data.several:
            labels = (
                torch.zeros(len(rows), dtype=torch.int64),
                torch.zeros(len(asked), dtype=torch.int64),
            )
        else:
            labels = data.labels("train", rows), data.labels("test", asked)
        targets = data.targets("train", rows), data.targets("test", asked)
        whole = (train, labels[0], test, labels[1], *targets)
        return cls(*(part.to(device) for part in whole))


def _linear(split: _Split, data: LabeledImages, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures of logistic regression, and its answers class by class."""
    count = len(data.classes)
    fitted = linear.fit_and_score(*split[:4], count, seed)
    predictions = fitted.classifier.predict(split.test_x)
    confusion = torch.bincount(split.test_y * count + predictions, minlength=count * count).view(
        count, count
    )
    details = {
        "measure": "linear",
        "per_class": {
            name: None if share is None else round(share, 3)
            for name, share in zip(data.classes, fitted.per_class, strict=True)
        },
        "confusion": confusion.tolist(),
    }
    row = {
        "linear": round(fitted.accuracy, 3),
        "weight_decay": fitted.weight_decay,
        "converged": fitted.converged,
    }
    return row, details


def _machines(split: _Split, seed: int) -> dict[str, Any]:
    """Measures of the support vector machines; top-1 only where each image has one class."""
    fitted = svm.fit_and_score(split.train_x, split.train_t, split.test_x, split.test_t, seed)
    row: dict[str, Any] = {"svm_map": round(fitted.mean_ap, 3), "svm_converged": fitted.converged}
    if bool(((split.test_t == 1).sum(1) == 1).all()):
        right = fitted.classifier.scores(split.test_x).argmax(1) == split.test_t.argmax(1)
        row = {"svm": round(100 * float(right.double().mean()), 3), **row}
    return row


def _mlps(split: _Split, classes: int, seed: int, repeats: int) -> dict[str, Any]:
    """Mean and deviation of the accuracy of a hidden layer over the repeats."""
    found = [mlp.fit_and_score(*split[:4], classes, seed + r) for r in range(repeats)]
    row = {"mlp": round(statistics.fmean(found), 3)}
    return row | ({"mlp_deviation": round(statistics.stdev(found), 3)} if len(found) > 1 else {})


def majority(data: LabeledImages, scored: list[Scored]) -> list[Scored]:
    """The row of always naming the class that has most training images."""
    if data.several:
        return []
    counts = torch.bincount(data.labels("train"), minlength=len(data.classes))
    share = round(100 * float((data.labels("test") == counts.argmax()).double().mean()), 3)
    asked = [
        name
        for name in MEASURES
        if name != "svm_map" and any(name in found.row for found in scored)
    ]
    return [
        Scored(
            {
                "features": "majority class",
                "stage": "",
                "numbers": 0,
                **dict.fromkeys(asked, share),
            },
            {},
        )
    ]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
