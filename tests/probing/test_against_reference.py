"""The probe against a brute-force reference that shares no code with it.

A small labeled folder is renamed, copied, truncated, reordered, relabeled and repainted at random,
and probed after each change with the same cache. The reference walks the folders and reads them by
Pillow, and classifies by scikit-learn; it is told the weight decay, which both must fit alike. Each
time the accuracies are equal, or the probe refuses what the reference refuses.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe, load_encoder, save_encoder
from ssltool.errors import SslToolError
from ssltool.probing.options import ProbeOptions
from ssltool.probing.probe import probe
from ssltool.runs.probe_record import ProbeRecord

SIDE, CLASSES = 12, ("a", "b", "c")
COLORS = {"a": (200, 60, 60), "b": (60, 200, 60), "c": (60, 60, 200)}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder for images of `SIDE` px."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", image_size=SIDE).eval()
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    metadata = describe(
        encoder, method="npid", color_space="rgb", image_size=SIDE, mean=MEAN, std=STD
    )
    save_encoder(encoder, metadata, path)
    return path


class Sandbox:
    """A folder with ``train`` and ``test``, and random changes to it."""

    def __init__(self, root: Path, rng: np.random.Generator) -> None:
        self.root, self._rng, self._made = root, rng, 0
        for split, count in (("train", 7), ("test", 4)):
            for name in CLASSES[: int(rng.integers(2, 4))] if split == "train" else CLASSES[:2]:
                for _ in range(count):
                    self._paint(self._new_file(split, name), name)

    def change(self, what: str) -> None:
        """Apply one change, named as the methods below."""
        changes: dict[str, Callable[[], None]] = {
            "rename": self._rename,
            "copy": self._copy,
            "truncate": self._truncate,
            "relabel": self._relabel,
            "repaint": self._repaint,
            "swap": self._swap,
            "remove": self._remove,
            "clutter": self._clutter,
        }
        changes[what]()

    def _files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*.*") if path.suffix in (".png", ".bmp"))

    def _any_file(self) -> Path | None:
        files = self._files()
        return files[int(self._rng.integers(len(files)))] if files else None

    def _new_file(self, split: str, name: str) -> Path:
        self._made += 1
        number = int(self._rng.integers(1000)) * 100 + self._made  # in no order
        path = self.root / split / name / f"{number:07d}.{('png', 'bmp')[self._made % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _paint(self, path: Path, name: str) -> None:
        noise = self._rng.integers(0, 256, (SIDE, SIDE, 3))
        pixels = noise * 0.8 + np.array(COLORS[name]) * 0.2
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    def _rename(self) -> None:
        if path := self._any_file():
            path.rename(self._new_file(*path.parts[-3:-1]).with_suffix(path.suffix))

    def _copy(self) -> None:
        if path := self._any_file():
            split = ("train", "test")[int(self._rng.integers(2))]
            copy = self._new_file(split, path.parts[-2]).with_suffix(path.suffix)
            shutil.copy2(path, copy)

    def _truncate(self) -> None:
        if path := self._any_file():
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])

    def _relabel(self) -> None:
        if path := self._any_file():
            name = CLASSES[int(self._rng.integers(3))]
            path.rename(self._new_file(path.parts[-3], name).with_suffix(path.suffix))

    def _repaint(self) -> None:
        """Other pixels under the same name, of a bitmap in a file of the same length."""
        if path := self._any_file():
            self._paint(path, CLASSES[int(self._rng.integers(3))])

    def _swap(self) -> None:
        """Exchange two files, so that only the order and the labels change."""
        first, second = self._any_file(), self._any_file()
        if first and second and first != second:
            aside = first.with_suffix(".aside")
            first.rename(aside)
            second.rename(first)
            aside.rename(second)

    def _remove(self) -> None:
        if path := self._any_file():
            path.unlink()

    def _clutter(self) -> None:
        (self.root / "train" / "notes.txt").write_text("no image")
        (self.root / "test" / "empty").mkdir(parents=True, exist_ok=True)

    def write_labels(self) -> Path:
        """The classes of all files as CSV, shuffled."""
        files = self._files()
        self._rng.shuffle(files)  # type: ignore[arg-type]
        path = self.root / "labels.csv"
        with path.open("w", newline="") as opened:
            rows = [(file.relative_to(self.root).as_posix(), file.parts[-2]) for file in files]
            csv.writer(opened).writerows([("file", "label"), *rows])
        return path


class Expected(NamedTuple):
    """What the reference reads."""

    train: NDArray[np.uint8]
    train_y: NDArray[np.str_]
    test: NDArray[np.uint8]
    test_y: NDArray[np.str_]


def read(root: Path) -> Expected | None:
    """The images that Pillow reads, in order of their paths; None where there is no number."""
    images: dict[str, list[NDArray[np.uint8]]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    listed: dict[str, set[str]] = {"train": set(), "test": set()}
    for folder, _, files in sorted(os.walk(root)):
        for file in sorted(files):
            split, *name = os.path.relpath(folder, root).split("/")
            if not file.endswith((".png", ".bmp")):
                continue
            listed[split].add(name[0])
            try:
                with Image.open(os.path.join(folder, file)) as image:
                    images[split].append(np.asarray(image.convert("RGB")))
                labels[split].append(name[0])
            except (OSError, SyntaxError, ValueError):
                continue
    if len(listed["train"]) < 2 or not listed["test"] <= listed["train"]:
        return None
    if len(set(labels["train"])) < 2 or not labels["test"]:
        return None
    seen = {image.tobytes() for image in images["train"]}
    if all(image.tobytes() in seen for image in images["test"]):
        return None
    arrays = (np.stack(images["train"]), np.array(labels["train"]))
    return Expected(*arrays, np.stack(images["test"]), np.array(labels["test"]))


def pixels(images: NDArray[np.uint8]) -> Floats:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1) / 255.0


def pooled(images: NDArray[np.uint8], weights: Path) -> Floats:
    """One image at a time through the network."""
    encoder = load_encoder(weights)
    mean, std = np.array(MEAN), np.array(STD)
    with torch.no_grad():
        rows = [
            encoder(torch.from_numpy(((x / 255.0 - mean) / std).transpose(2, 0, 1)[None]).float())
            for x in images
        ]
    return torch.cat(rows).double().numpy()


def knn_accuracy(train: Floats, test: Floats, expected: Expected) -> tuple[float, float]:
    """Accuracy of five neighbors in percent, and by how much ties may change it."""
    k = min(5, len(train))
    classifier = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )
    classifier.fit(train, expected.train_y)
    votes = np.sort(classifier.predict_proba(test), axis=1)
    distances = classifier.kneighbors(test, min(k + 1, len(train)))[0]
    unsure = votes[:, -1] - votes[:, -2] < 1e-3
    if distances.shape[1] > k:
        unsure |= distances[:, k] - distances[:, k - 1] < 1e-5
    correct = classifier.predict(test) == expected.test_y
    return 100 * float(correct.mean()), 100 * float(unsure.mean())


def linear_accuracy(expected: Expected, weight_decay: float) -> tuple[float, float]:
    """Accuracy of logistic regression on pixels in percent, and by how much ties may change it."""
    train, test = pixels(expected.train), pixels(expected.test)
    mean, std = train.mean(0), train.std(0)
    std[std <= 1e-6 * np.abs(mean)] = np.inf
    # Of two classes scikit-learn fits one vector, the difference of the two that are decayed here.
    classes = len(set(expected.train_y.tolist()))
    c = (2 if classes == 2 else 1) / (len(train) * weight_decay)
    classifier = LogisticRegression(C=c, tol=1e-7, max_iter=3000)
    classifier.fit((train - mean) / std, expected.train_y)
    z = (test - mean) / std
    chances = np.sort(classifier.predict_proba(z), axis=1)
    correct = classifier.predict(z) == expected.test_y
    unsure = chances[:, -1] - chances[:, -2] < 0.02
    return 100 * float(correct.mean()), 100 * float(unsure.mean())


def check(record: ProbeRecord, expected: Expected, weights: Path) -> None:
    """Compare the numbers of a record with those of the reference."""
    assert (record.train_images, record.test_images) == (len(expected.train), len(expected.test))
    rows = {row.source.kind: row for row in record.rows}
    names, counts = np.unique(expected.train_y, return_counts=True)
    majority = names[counts.argmax()]
    assert rows["majority"].accuracy["linear"] == pytest.approx(
        100 * float((expected.test_y == majority).mean()), abs=1e-3
    )
    values, slack = knn_accuracy(pixels(expected.train), pixels(expected.test), expected)
    assert rows["pixels"].accuracy["knn5"] == pytest.approx(values, abs=slack + 1e-3)
    features = (pooled(expected.train, weights), pooled(expected.test, weights))
    values, slack = knn_accuracy(*features, expected)
    assert rows["pretrained"].accuracy["knn5"] == pytest.approx(values, abs=slack + 1e-3)
    decay = rows["pixels"].weight_decay
    assert decay is not None
    values, slack = linear_accuracy(expected, decay)
    assert rows["pixels"].accuracy["linear"] == pytest.approx(values, abs=slack + 1e-3)


CHANGES = st.sampled_from(
    ["rename", "copy", "truncate", "relabel", "repaint", "swap", "remove", "clutter"]
)


def probe_after_changes(
    weights: Path, folder: Path, seed: int, steps: list[list[str]], from_csv: bool
) -> None:
    """Probe a new sandbox after each step of changes, with one cache."""
    shutil.rmtree(folder, ignore_errors=True)
    sandbox = Sandbox(folder / "data", np.random.default_rng(seed))
    for changes in steps:
        for change in changes:
            sandbox.change(change)
        options: dict[str, Any] = {"label_file": sandbox.write_labels()} if from_csv else {}
        asked = ProbeOptions.checked(
            weights=weights,
            data=(str(folder / "data" / "train"),),
            test_data=(str(folder / "data" / "test"),),
            cache=folder / "cache",
            kind=("linear", "knn"),
            random_inits=1,
            recalibrate=False,
            workers=0,
            batch_size=1 + seed % 40,
            **options,
        )
        expected = read(folder / "data")
        if expected is None:
            with pytest.raises(SslToolError):
                probe(asked, Console(quiet=True))
        else:
            check(probe(asked, Console(quiet=True)), expected, weights)


STEPS = st.lists(st.lists(CHANGES, max_size=3), min_size=1, max_size=2)


@settings(max_examples=2, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31), STEPS, st.booleans())
@pytest.mark.slow
@pytest.mark.ci
def test_numbers_are_those_of_the_reference(
    weights: Path, tmp_path: Path, seed: int, steps: list[list[str]], from_csv: bool
) -> None:
    probe_after_changes(weights, tmp_path / "probed", seed, steps, from_csv)


@pytest.mark.slow
@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31), STEPS, st.booleans())
def test_numbers_are_those_of_the_reference_at_length(
    weights: Path, tmp_path: Path, seed: int, steps: list[list[str]], from_csv: bool
) -> None:
    probe_after_changes(weights, tmp_path / "probed", seed, steps, from_csv)
