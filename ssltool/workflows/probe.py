"""What did the encoder learn? Features are read once, then probed, beside random weights and raw pixels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from torch import Tensor

from ssltool.data.batches import AllPictures
from ssltool.data.find import open_source
from ssltool.data.source import Source
from ssltool.errors import DataError, UsageError
from ssltool.nn.card import WeightsCard
from ssltool.nn.encoders import Encoder, twin
from ssltool.nn.weights import find_weights, load_encoder
from ssltool.ops.random import mix
from ssltool.probing import features, linear
from ssltool.probing.finetune import Schedule
from ssltool.probing.knn import knn_accuracy
from ssltool.training.device import best_device
from ssltool.viz import chart
from ssltool.workflows import labels as label_curves
from ssltool.workflows.options import describe_fault

Kind = Literal["linear", "layers", "knn", "finetune"]
Split = Literal["train", "test"]
Features = dict[str, Tensor]  # name of the stage -> float32 [N, D]

_KS = (20, 200)  # neighbours: few labels, and the paper's
_TEST_SHARE = 0.2  # of --data, when no test pictures are given
_FOLLOWED = 5000  # pictures read each time a network in training is looked at
_RECALIBRATION = 1024  # pictures whose statistics batch norm is given


class ProbeOptions(BaseModel):
    """Options of ``ssltool probe``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path
    data: tuple[str, ...]
    test_data: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("linear", "layers", "knn")
    labels: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    finetune_pictures: int = Field(Schedule.pictures, ge=1)
    to: Path | None = None
    grid_numbers: int = Field(512, ge=0)
    baselines: bool = True
    recalibrate: bool = True
    batch_size: int = Field(256, ge=1)
    workers: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0)

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Validate; faults become one line naming flags."""
        try:
            return cls(**values)
        except ValidationError as error:
            faults = "; ".join(describe_fault({**fault, "loc": fault["loc"][:1]}) for fault in error.errors())
            raise UsageError(faults.replace("--kinds", "--kind")) from error


class LabelledPictures:
    """Labelled pictures, split into training and test once, for all encoders alike.

    Args:
        options: Where they are and how they are read and split.
        most: Only about so many pictures of ``data``, evenly spread.

    Attributes:
        classes: Class names.
        skipped: Name and reason of pictures that could not be read.
    """

    def __init__(self, options: ProbeOptions, most: int | None = None) -> None:
        self._options = options
        self._device = best_device()
        self.skipped: dict[str, str] = {}
        source = open_source(options.data)
        self.classes = source.classes
        self._number = {name: i for i, name in enumerate(self.classes)}
        if len(self.classes) < 2:
            raise DataError(
                f"{source.description} has {len(self.classes)} class folders but probing needs 2 or more; "
                "put the pictures of each class into a folder of their own"
            )
        places = _labelled(source)
        places = places[:: -(-len(places) // most)] if most and places else places
        if options.test_data:
            tested = open_source(options.test_data)
            unknown = sorted(set(tested.classes) - set(self.classes))
            if unknown:
                raise DataError(
                    f"--test-data has classes that --data lacks: {', '.join(unknown[:3])}; add pictures of them"
                )
            self._splits = {"train": (source, places), "test": (tested, _labelled(tested))}
        else:
            labels = torch.tensor([source.label(place) for place in places])
            kept, held = linear.split(labels, _TEST_SHARE, options.seed)
            self._splits = {
                "train": (source, [places[i] for i in kept.tolist()]),
                "test": (source, [places[i] for i in held.tolist()]),
            }
        for split, (_, chosen) in self._splits.items():
            if not chosen:
                raise DataError(f"there are no labelled {split} pictures; each class needs pictures in its folder")

    def labels(self, split: Split) -> Tensor:
        """Class of each picture of a split, int64 ``[N]``; those that were read and could not be are left out."""
        source, places = self._splits[split]
        return torch.tensor([self._class(source, place) for place in places])

    def _class(self, source: Source, place: int) -> int:
        label = source.label(place)
        assert label is not None, "only labelled places are kept"
        return self._number[source.classes[label]]

    def read(
        self, split: Split, size: int, most: int | None = None, only: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split: uint8 ``[B, 3, size, size]`` on the device and classes int64 ``[B]``.

        Args:
            split: Which one.
            size: Side in pixels.
            most: Only about so many pictures, evenly spread.
            only: Only these pictures, by their place in the split, in this order.
        """
        source, places = self._splits[split]
        if most is not None:
            places = places[:: max(1, len(places) // most)]
        if only is not None:
            places = [places[i] for i in only]
        options = self._options
        with AllPictures(
            source,
            size=size,
            batch_size=options.batch_size,
            workers=options.workers,
            device=self._device,
            indices=places,
        ) as pictures:
            read: list[int] = []
            for batch in pictures:
                read += batch.indices.tolist()
                yield batch.images, torch.tensor([self._class(source, place) for place in batch.indices.tolist()])
            self.skipped.update(pictures.skipped)
            if most is None and only is None:
                self._splits[split] = (source, read)  # from now on a place in the split is a row of its features


def probe(options: ProbeOptions, console: Console | None = None) -> dict[str, Any]:
    """Run ``ssltool probe``.

    Returns:
        In JSON kinds: ``rows`` with ``features`` (the method's name, random weights, pixels), ``stage``, ``numbers``
        and accuracies in percent (``linear, knn20, knn200``); ``best``, the index of the method's best linear row;
        ``labels``, rows with ``features, how, share, pictures, accuracy``, if asked for, and ``chart``, their curve;
        ``classes``; numbers of pictures; ``skipped``; and how it was done (``protocol``).
    """
    console = console or Console(stderr=True, highlight=False)
    weights = find_weights(options.weights)
    encoder = load_encoder(weights)
    card = encoder.card
    assert card is not None, "load_encoder attaches it"
    pictures = LabelledPictures(options)
    patch = None if options.labels else card.patch  # a curve over labels is costly enough in one way
    networks = _ways(card.method, encoder, patch)
    own = tuple(networks)
    if options.baselines:
        networks |= _ways("random weights", random_twin(encoder, options.seed), patch)
    rows: list[dict[str, Any]] = []
    few: list[dict[str, Any]] = []
    reads = set(options.kinds) != {"finetune"}
    for name, network in networks.items() if reads else ():
        console.print(f"{name}: reading features")
        train, test = _read(network, card, pictures, options)
        rows += _score(name, train, test, len(pictures.classes), options, console)
        if options.labels and "linear" in options.kinds:
            kept, asked = [(stages[features.POOLED], y) for stages, y in (train, test)]
            classes = len(pictures.classes)
            few += label_curves.frozen(name, kept, asked, classes, options.labels, options.seed, console)
    if "finetune" in options.kinds:
        few += _finetuned(networks, card, pictures, options, console)
    if options.baselines and reads and not options.labels:
        train = _pixels(pictures, "train", _picture_size(card))
        test = _pixels(pictures, "test", _picture_size(card), like=train)
        rows += _score("pixels", train, test, len(pictures.classes), options, console)
    measured = [i for i, row in enumerate(rows) if row["features"] in own and "linear" in row]
    return {
        "weights": str(weights),
        "method": card.method,
        "rows": rows,
        "best": max(measured, key=lambda i: rows[i]["linear"], default=None),
        "classes": list(pictures.classes),
        **_label_results(few, card, weights, options),
        "train_pictures": len(pictures.labels("train")),
        "test_pictures": len(pictures.labels("test")),
        "skipped": pictures.skipped,
        "protocol": {
            "picture_size": card.image_size,
            "grid_numbers": options.grid_numbers,
            "recalibrated_batch_norm": options.recalibrate,
            "linear": "logistic regression, weight decay chosen on a tenth of the training pictures",
            "knn": "cosine, votes weighted by exp(similarity / 0.07)",
            "seed": options.seed,
        },
    }


class Follower:
    """Follows a network in training by the kNN accuracy of its pooled features on labelled pictures.

    Args:
        data: Labelled pictures, of which a fifth is held out.
        batch_size: Pictures per batch.
        seed: Of the split.
    """

    def __init__(self, data: tuple[str, ...], batch_size: int, seed: int) -> None:
        in_memory = Path()  # there is no weights file
        self._options = ProbeOptions.checked(
            weights=in_memory, data=data, kinds=("knn",), workers=0, batch_size=batch_size, seed=seed
        )
        self._pictures = LabelledPictures(self._options, most=_FOLLOWED)

    def accuracy(self, encoder: Encoder, card: WeightsCard) -> float:
        """Share of the held-out pictures whose 20 nearest training pictures name their class, 0..1.

        The encoder stays as it is, since a copy is read, and nothing is drawn from a global generator.
        """
        train, test = _read(copy.deepcopy(encoder), card, self._pictures, self._options)
        x, y = train[0][features.POOLED], test[0][features.POOLED]
        labels = [part[1].to(x.device) for part in (train, test)]
        k = _KS[0]
        return knn_accuracy(x, labels[0], y, labels[1], len(self._pictures.classes), ks=(k,))[k] / 100


def _finetuned(
    networks: dict[str, Encoder | features.Patchwise],
    card: WeightsCard,
    pictures: LabelledPictures,
    options: ProbeOptions,
    console: Console,
) -> list[dict[str, Any]]:
    """Rows of the networks that read whole pictures, fine-tuned on each share of the labels."""
    return label_curves.tuned(
        {name: network for name, network in networks.items() if isinstance(network, Encoder)},
        pictures,
        features.Reader.of(card),
        _picture_size(card),
        options.labels or (1.0,),
        Schedule(pictures=options.finetune_pictures),
        options.seed,
        console,
    )


def _label_results(
    rows: list[dict[str, Any]], card: WeightsCard, weights: Path, options: ProbeOptions
) -> dict[str, Any]:
    """What the document says of the labels, with the curve drawn if there is more than one share."""
    if not rows:
        return {}
    if len(options.labels) < 2:
        return {"labels": rows}
    path = options.to or weights.parent / "pictures" / "labels.png"
    drawn = chart.save_figure(label_curves.figure(rows, f"{card.method}, {card.backbone}: accuracy over labels"), path)
    return {"labels": rows, "chart": str(drawn)}


def _labelled(source: Source) -> list[int]:
    return [place for place in range(len(source)) if source.label(place) is not None]


def random_twin(encoder: Encoder, seed: int) -> Encoder:
    """The same network with fresh weights, a function of the seed."""
    torch.manual_seed(mix(seed))
    return twin(encoder)


def _ways(name: str, encoder: Encoder, patch: tuple[int, int] | None) -> dict[str, Encoder | features.Patchwise]:
    """How the network may read a picture: whole and, if it was trained on patches, patch by patch."""
    if patch is None:
        return {name: encoder}
    return {f"{name} (whole)": encoder, f"{name} (patch)": features.Patchwise(encoder, *patch)}


def _picture_size(card: WeightsCard) -> int:
    """Side at which files are read: what pretraining read; tiles may have been enlarged after that."""
    return int(card.training.get("picture_size", card.image_size))


def _read(
    encoder: Encoder | features.Patchwise, card: WeightsCard, pictures: LabelledPictures, options: ProbeOptions
) -> tuple[tuple[Features, Tensor], tuple[Features, Tensor]]:
    """Features and classes of both splits, after batch norm has seen whole pictures."""
    encoder.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = _picture_size(card)
    read_at = size if isinstance(encoder, features.Patchwise) else card.image_size
    reader = features.Reader.of(card, read_at)
    if options.recalibrate:
        some = pictures.read("train", size, most=_RECALIBRATION)
        features.recalibrate_batch_norm(encoder, (images for images, _ in some), reader)
    grid = options.grid_numbers if "layers" in options.kinds else 0

    def read(split: Split) -> tuple[Features, Tensor]:
        labels: list[Tensor] = []
        stages = features.extract(encoder, _noting(pictures.read(split, size), labels), reader, grid)
        return stages, torch.cat(labels)

    return read("train"), read("test")


def _pixels(
    pictures: LabelledPictures, split: Split, size: int, like: tuple[Features, Tensor] | None = None
) -> tuple[Features, Tensor]:
    """Raw pixels and classes of a split; test pictures keep as many channels as the training pictures have."""
    side, labels = min(32, size), list[Tensor]()
    channels = like[0]["pixels"].shape[1] // side**2 if like else None
    values = features.pixels(_noting(pictures.read(split, size), labels), side, channels)
    return {"pixels": values}, torch.cat(labels)


def _noting(batches: Iterator[tuple[Tensor, Tensor]], labels: list[Tensor]) -> Iterator[Tensor]:
    """Pass pictures on and keep their labels."""
    for images, classes in batches:
        labels.append(classes)
        yield images


def _score(
    name: str,
    train: tuple[Features, Tensor],
    test: tuple[Features, Tensor],
    classes: int,
    options: ProbeOptions,
    console: Console,
) -> list[dict[str, Any]]:
    """Rows of the table for one kind of features: the pooled one (or pixels), then every stage if asked for."""
    rows = []
    whole = {features.POOLED, "pixels"}
    for stage, train_x in train[0].items():
        if stage not in whole and "layers" not in options.kinds:
            continue
        row: dict[str, Any] = {"features": name, "stage": stage, "numbers": train_x.shape[1]}
        labels = [y.to(train_x.device) for y in (train[1], test[1])]
        if {"linear", "layers"} & set(options.kinds):
            fitted = linear.fit_and_score(train_x, labels[0], test[0][stage], labels[1], classes, options.seed)
            row |= {
                "linear": round(fitted.accuracy, 3),
                "weight_decay": fitted.weight_decay,
                "converged": fitted.converged,
            }
        if stage in whole and "knn" in options.kinds:
            found = knn_accuracy(train_x, labels[0], test[0][stage], labels[1], classes, ks=_KS)
            row |= {f"knn{k}": round(accuracy, 3) for k, accuracy in found.items()}
        found_so_far = ", ".join(f"{key} {row[key]:.2f} %" for key in ("linear", "knn20", "knn200") if key in row)
        console.print(f"{name}, {stage}: {found_so_far}")
        rows.append(row)
    return rows
