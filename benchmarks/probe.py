"""Times of the probe: reading against fitting, and our solvers against scikit-learn's on the same
features.

    python benchmarks/probe.py --weights RUN --data fashion/train --test-data fashion/test

Prints JSON. Reading is from files to features; fitting is linear + kNN on the pooled vector.
CPU-seconds of this process. scikit-learn gets ``--images`` of the training data, since its solvers
need minutes for 60,000.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from ssltool.probing import convex, linear, svm
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import read
from ssltool.probing.knn import knn_accuracy
from ssltool.probing.probe import ProbeOptions, open_encoder
from ssltool.probing.store import FeatureStore


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return round(time.process_time() - start, 2), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test-data", required=True)
    parser.add_argument("--images", type=int, default=5000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = ProbeOptions.checked(
        weights=args.weights, data=(args.data,), test_data=(args.test_data,), workers=0
    )
    encoder, metadata, _ = open_encoder(options, Console(stderr=True))
    data = LabeledImages(options.data, options.test_data, workers=0)
    classes = len(data.classes)
    reading, found = timed(
        lambda: read(encoder, metadata, data, FeatureStore(None), grid=0, recalibrated=True)
    )
    x, test_x = found.train.stages["pooled"], found.test.stages["pooled"]
    y, test_y = (
        data.labels("train", found.train.places),
        data.labels("test", found.test.places),
    )
    fitting, fitted = timed(lambda: linear.fit_and_score(x, y, test_x, test_y, classes, 0))
    searching, near = timed(lambda: knn_accuracy(x, y, test_x, test_y, classes, ks=(5, 20, 200)))

    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: args.images]
    mean, std = convex.moments(x[some])
    z, test_z = (((part - mean) / std).double().numpy() for part in (x[some], test_x))
    decay = 1e-2
    cost = 1 / (len(some) * decay)
    ours, classifier = timed(lambda: linear.fit(x[some], y[some], classes, decay))
    theirs, reference = timed(
        lambda: LogisticRegression(C=cost, tol=1e-6, max_iter=2000).fit(z, y[some])
    )
    answers = [classifier.predict(test_x).numpy(), reference.predict(test_z)]
    targets = svm.targets_of(y[some], classes)
    our_svm, machines = timed(lambda: svm.fit(x[some], targets, decay))
    their_svm, their_machines = timed(
        lambda: LinearSVC(
            C=cost, dual=False, tol=1e-6, max_iter=10_000, intercept_scaling=100, class_weight=None
        ).fit(z, y[some])
    )
    plain = svm.fit(x[some], targets, decay, positive=1.0)
    svm_answers = [plain.scores(test_x).argmax(1).numpy(), their_machines.predict(test_z)]
    print(
        json.dumps(
            {
                "images": [len(x), len(test_x)],
                "numbers": x.shape[1],
                "reading_s": reading,
                "linear_s": fitting,
                "knn_s": searching,
                "fitting_over_reading": round((fitting + searching) / reading, 3),
                "linear": round(fitted.accuracy, 2),
                "knn": {k: round(value, 2) for k, value in near.items()},
                "against_scikit_learn": {
                    "images": len(some),
                    "logistic_s": [ours, theirs],
                    "logistic_same_answers": float((answers[0] == answers[1]).mean()),
                    "logistic_accuracy": [
                        round(100 * float((a == test_y.numpy()).mean()), 2) for a in answers
                    ],
                    "svm_s": [our_svm, their_svm],
                    "svm_same_answers": float((svm_answers[0] == svm_answers[1]).mean()),
                    "svm_converged": machines.converged,
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
