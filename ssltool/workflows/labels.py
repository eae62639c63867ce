"""How many labels is pretraining worth? Accuracy over the share of the labels that may be used."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from ssltool.nn.encoders import Encoder
from ssltool.probing import features, linear
from ssltool.probing.finetune import Schedule, accuracy, finetune
from ssltool.probing.labels import subset
from ssltool.training.device import best_device, choose_precision
from ssltool.viz import chart

if TYPE_CHECKING:
    from ssltool.workflows.probe import LabelledPictures

_IN_MEMORY = 2**30  # bytes of decoded test pictures kept from one network to the next


def frozen(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    shares: Sequence[float],
    seed: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Linear probes of one network's pooled features on a few of the labels: a row for each share.

    Args:
        name: What the features are called.
        train: Features float ``[N, D]`` and classes int64 ``[N]``.
        test: The same of the test pictures.
        classes: Number of classes.
        shares: Of the labels, 0 to 1.
        seed: Of the subsets.
        console: Where progress goes.
    """
    rows = []
    for share in shares:
        chosen = subset(train[1], share, seed)
        x, y = train[0][chosen.to(train[0].device)], train[1][chosen]
        fitted = linear.fit_and_score(x, y.to(x.device), test[0], test[1].to(x.device), classes, seed)
        rows.append(_row(name, "linear", share, len(chosen), fitted.accuracy, console))
    return rows


def tuned(
    networks: Mapping[str, Encoder],
    pictures: LabelledPictures,
    reader: features.Reader,
    size: int,
    shares: Sequence[float],
    schedule: Schedule,
    seed: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Networks fine-tuned on a few of the labels: a row for each network and share; the networks stay as they are.

    Args:
        networks: Name -> network to start from.
        pictures: Labelled pictures.
        reader: Resizes and normalises.
        size: Side at which files are read, in pixels.
        shares: Of the labels, 0 to 1.
        schedule: How long and how fast.
        seed: Of the subsets and of the training.
        console: Where progress goes.
    """
    device, labels = best_device(), pictures.labels("train")
    some = next(iter(networks.values()))
    chosen_format = choose_precision("auto", some, reader.size, some.in_channels, device).name
    dtype = torch.bfloat16 if chosen_format == "bf16" else torch.float32
    fits = len(pictures.labels("test")) * size * size * 3 <= _IN_MEMORY
    kept = list(pictures.read("test", size)) if fits else None
    rows = []
    for share in shares:
        chosen = subset(labels, share, seed)
        # Shuffled, so what is beyond the number of pictures shown would never be seen.
        batches = list(pictures.read("train", size, only=chosen[: schedule.pictures].tolist()))
        images, classes = torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
        for name, network in networks.items():
            start = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            trained = finetune(
                start, images, classes, reader, len(pictures.classes), seed, schedule=schedule, dtype=dtype
            )
            found = accuracy(trained, kept or pictures.read("test", size), reader, dtype=dtype)
            rows.append(_row(name, "finetune", share, len(chosen), found, console))
    return rows


def series(row: Mapping[str, Any]) -> str:
    """The curve that a row belongs to, in words."""
    name = str(row["features"])
    if row["how"] == "linear":
        return f"{name}, frozen"
    return "trained from scratch" if name.startswith("random weights") else f"{name}, fine-tuned"


def figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracy over the share of the labels, a curve for each kind of features and way of using them."""
    shares = sorted({row["share"] for row in rows})
    names = dict.fromkeys(series(row) for row in rows)
    found = {(series(row), row["share"]): row["accuracy"] for row in rows}
    curves = {name: [found[name, share] for share in shares] for name in names}
    percent = [100 * share for share in shares]
    return chart.lines(percent, curves, "labels used, percent", "test accuracy, percent", title=title, log_x=True)


def _row(name: str, how: str, share: float, count: int, found: float, console: Console) -> dict[str, Any]:
    row = {"features": name, "how": how, "share": share, "pictures": count, "accuracy": round(found, 3)}
    console.print(f"{series(row)}, {share:g} of the labels ({count} pictures): {found:.2f} %")
    return row
