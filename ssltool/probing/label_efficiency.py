"""How many labels is pretraining worth? Accuracy over the number of labels that may be used."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from ssltool.device import best_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.precision import choose_precision
from ssltool.encoders.transform import InputTransform
from ssltool.plotting.records import Lines
from ssltool.probing import features, linear
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.extraction import Features, Network, random_init
from ssltool.probing.finetune import Schedule, accuracy, finetune
from ssltool.probing.subsets import subset

if TYPE_CHECKING:
    from ssltool.probing.probe import ProbeOptions

SCRATCH = "trained from scratch"
_IN_MEMORY = 2**30  # bytes of decoded test images kept from one network to the next


class Few(NamedTuple):
    """How many labels may be used: a share of each class, or so many images of it."""

    share: float | None
    shots: int | None

    def chosen(self, labels: Tensor, seed: int) -> Tensor:
        """Places of the images that keep their label."""
        return subset(labels, seed, share=self.share, shots=self.shots)

    @property
    def told(self) -> dict[str, Any]:
        """In a row of the document."""
        return {"shots": self.shots} if self.share is None else {"share": self.share}

    def __str__(self) -> str:
        return (
            f"{self.shots} of each class" if self.share is None else f"{self.share:g} of the labels"
        )


def asked(options: ProbeOptions) -> list[Few]:
    """The points of the curve, fewest labels first; all labels if none were asked for."""
    shots = [Few(None, shots) for shots in sorted(options.shots)]
    return shots + [Few(share, None) for share in sorted(options.labels)]


def frozen(
    name: str, found: Features, data: LabeledImages, options: ProbeOptions, console: Console
) -> list[dict[str, Any]]:
    """Linear probes of one network's pooled features on a few of the labels: a row for each point
    of the curve.
    """
    labels, rows = data.labels("train"), []
    train, test = found.train, found.test
    row_of = torch.full((len(labels),), -1)
    row_of[train.places] = torch.arange(len(train.places))
    x, y = (
        test.stages[features.POOLED].to(best_device()),
        data.labels("test", test.places).to(best_device()),
    )
    for few in asked(options):
        found_ = []
        for repeat in range(options.repeats):
            chosen = row_of[few.chosen(labels, options.seed + repeat)]
            # Without the images that could not be read, which have no row; in order, so that all
            # labels give the very probe of the main table.
            chosen = chosen[chosen >= 0].sort().values
            some = train.stages[features.POOLED][chosen].to(x.device)
            known = data.labels("train", train.places[chosen]).to(x.device)
            result = linear.fit_and_score(
                some, known, x, y, len(data.classes), options.seed + repeat
            )
            found_.append(result.accuracy)
        rows.append(_row(name, "linear", few, len(chosen), found_, console))
    return rows


def tuned(
    networks: Mapping[str, Network],
    metadata: EncoderMetadata,
    size: int,
    data: LabeledImages,
    options: ProbeOptions,
    finetuned: bool,
    console: Console,
) -> list[dict[str, Any]]:
    """Networks trained on a few of the labels or on all: a row for each network and point of the
    curve.

    Args:
        networks: Name -> network to start from, which stays as it is; those that read patches are
            left out.
        metadata: What they were trained on.
        size: Side at which files are read, in pixels.
        images: Labeled data.
        options: Which points, how many repeats, how long.
        finetuned: Whether the networks are fine-tuned at all, and not only one trained from scratch
            for as long as pretraining took.
        console: Where progress goes.
    """
    whole = {name: network for name, network in networks.items() if isinstance(network, Encoder)}
    reader, some = InputTransform.of(metadata), next(iter(whole.values()))
    chosen_format = choose_precision(
        "auto", some, reader.size, some.in_channels, best_device()
    ).name
    dtype = torch.bfloat16 if chosen_format == "bf16" else torch.float32
    fits = data.count("test") * size * size * 3 <= _IN_MEMORY
    kept = list(_with_labels("test", size, data)) if fits else None

    def score(network: Encoder, chosen: Tensor, schedule: Schedule, seed: int) -> float:
        """Train a copy and test it."""
        # Shuffled, so what is beyond the number of images shown would never be seen.
        batches = list(_with_labels("train", size, data, chosen[: schedule.images]))
        images, classes = (
            torch.cat([batch[0] for batch in batches]),
            torch.cat([batch[1] for batch in batches]),
        )
        start = copy.deepcopy(network).to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = finetune(
            start,
            images,
            classes,
            reader,
            len(data.classes),
            seed,
            schedule=schedule,
            dtype=dtype,
        )
        return accuracy(trained, kept or _with_labels("test", size, data), reader, dtype=dtype)

    labels, rows = data.labels("train"), []
    short = Schedule(images=options.finetune_images)
    repeats = range(options.repeats)
    for few in asked(options) or [Few(1.0, None)]:
        for name, network in whole.items() if finetuned else ():
            found = [
                score(network, few.chosen(labels, options.seed + r), short, options.seed + r)
                for r in repeats
            ]
            rows.append(
                _row(name, "finetune", few, len(few.chosen(labels, options.seed)), found, console)
            )
    if options.scratch:
        # As long as pretraining took: the same number of images shown.
        shown = (
            int(metadata.training.get("steps", 0)) * int(metadata.training.get("batch_size", 0))
            or short.images
        )
        everything = Few(1.0, None)
        fresh = [random_init(some, options.seed + r) for r in repeats]
        found = [
            score(
                network,
                everything.chosen(labels, options.seed + r),
                Schedule(images=shown),
                options.seed + r,
            )
            for r, network in enumerate(fresh)
        ]
        rows.append(_row(SCRATCH, "scratch", everything, len(labels), found, console))
    return rows


def series(row: Mapping[str, Any]) -> str:
    """The curve that a row belongs to, in words."""
    name = str(row["features"])
    if row["how"] == "linear":
        return f"{name}, frozen"
    return SCRATCH if name.startswith(("random init", SCRATCH)) else f"{name}, fine-tuned"


def plot(rows: Sequence[Mapping[str, Any]]) -> Lines:
    """Accuracy over the number of labeled data, a curve for each kind of features and way of using
    them.
    """
    rows = [row for row in rows if row["how"] != "scratch"]
    counts = sorted({row["images"] for row in rows})
    names = dict.fromkeys(series(row) for row in rows)
    found = {(series(row), row["images"]): row["accuracy"] for row in rows}
    curves = {name: [found.get((name, count), float("nan")) for count in counts] for name in names}
    return Lines.shared_x(counts, curves, "labeled images", "test accuracy, percent", log_x=True)


def _with_labels(
    split: Split, size: int, data: LabeledImages, only: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images uint8 and their classes."""
    for images, places in data.read(split, size, only=None if only is None else only.tolist()):
        yield images, data.labels(split, places)


def _row(
    name: str, how: str, few: Few, count: int, found: Sequence[float], console: Console
) -> dict[str, Any]:
    row = {
        "features": name,
        "how": how,
        **few.told,
        "images": count,
        "accuracy": round(statistics.fmean(found), 3),
    }
    spread = ""
    if len(found) > 1:
        row |= {"deviation": round(statistics.stdev(found), 3), "repeats": len(found)}
        spread = f" ± {row['deviation']:.2f}"
    console.print(f"{series(row)}, {few} ({count} data): {row['accuracy']:.2f}{spread} %")
    return row
