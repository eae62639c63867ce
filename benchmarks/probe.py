"""Times of the probe: feature extraction, linear and kNN probes, and solvers next to scikit-learn.

    python benchmarks/probe.py --weights RUN --data fashion/train --test-data fashion/test

Prints JSON, in CPU-seconds of this process. Extraction is from files to features; probes are linear
and kNN on the pooled vector. The solvers are compared on ``--images`` of the training images,
because those of scikit-learn need minutes for 60,000.
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
from ssltool.probing.extraction import Extractor, encoder_variants
from ssltool.probing.knn import knn_accuracy
from ssltool.probing.options import ProbeOptions
from ssltool.probing.probe import open_encoder
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
    encoder, metadata = open_encoder(options, Console(stderr=True))
    data = LabeledImages(options.data, options.test_data, workers=0)
    classes = len(data.classes)
    variant = encoder_variants(encoder, metadata, "pretrained", patches=False)[0]
    extractor = Extractor(data, FeatureStore(None), torch.device("cpu"))
    extraction, extracted = timed(lambda: extractor.features([variant], with_pixels=False))
    ((train, test, _),) = extracted[variant.source]
    x, test_x = train.stages["pooled"], test.stages["pooled"]
    y, test_y = data.labels("train", train.indices), data.labels("test", test.indices)
    fitting, fitted = timed(lambda: linear.fit_and_score(x, y, test_x, test_y, classes, 0))
    searching, knn = timed(lambda: knn_accuracy(x, y, test_x, test_y, classes, ks=(5, 20, 200)))

    subset = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: args.images]
    mean, std = convex.moments(x[subset])
    z, test_z = (((part - mean) / std).double().numpy() for part in (x[subset], test_x))
    decay = 1e-2
    cost = 1 / (len(subset) * decay)
    ours, classifier = timed(lambda: linear.fit(x[subset], y[subset], classes, decay))
    theirs, reference = timed(
        lambda: LogisticRegression(C=cost, tol=1e-6, max_iter=2000).fit(z, y[subset])
    )
    predictions = [classifier.predict(test_x).numpy(), reference.predict(test_z)]
    targets = svm.targets_of(y[subset], classes)
    our_svm, svms = timed(lambda: svm.fit(x[subset], targets, decay))
    their_svm, their_svms = timed(
        lambda: LinearSVC(
            C=cost, dual=False, tol=1e-6, max_iter=10_000, intercept_scaling=100, class_weight=None
        ).fit(z, y[subset])
    )
    plain = svm.fit(x[subset], targets, decay, positive=1.0)
    svm_predictions = [plain.scores(test_x).argmax(1).numpy(), their_svms.predict(test_z)]
    print(
        json.dumps(
            {
                "images": [len(x), len(test_x)],
                "dim": x.shape[1],
                "extraction_s": extraction,
                "linear_s": fitting,
                "knn_s": searching,
                "probes_over_extraction": round((fitting + searching) / extraction, 3),
                "linear": round(fitted.accuracy, 2),
                "knn": {k: round(value, 2) for k, value in knn.items()},
                "against_scikit_learn": {
                    "images": len(subset),
                    "logistic_s": [ours, theirs],
                    "logistic_agreement": float((predictions[0] == predictions[1]).mean()),
                    "logistic_accuracy": [
                        round(100 * float((a == test_y.numpy()).mean()), 2) for a in predictions
                    ],
                    "svm_s": [our_svm, their_svm],
                    "svm_agreement": float((svm_predictions[0] == svm_predictions[1]).mean()),
                    "svm_converged": svms.converged,
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
