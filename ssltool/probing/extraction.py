"""Features of labelled pictures: from the store if they were read before, else through the network, once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ssltool
from ssltool.device import best_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import WeightsCard
from ssltool.encoders.registry import twin
from ssltool.encoders.transform import InputTransform
from ssltool.ops.per_image_rng import mix
from ssltool.probing import features
from ssltool.probing.datasets import LabelledPictures, Split
from ssltool.probing.health import MOST, health
from ssltool.probing.store import FeatureStore, Stored, key_of

Network = Encoder | features.Patchwise


class Features(NamedTuple):
    """Features of both splits.

    Attributes:
        train: Of the training pictures.
        test: Of the test pictures.
        key: Equal for features that were made alike.
    """

    train: Stored
    test: Stored
    key: str


_RECALIBRATION = 1024  # pictures whose statistics batch norm is given


def random_twin(encoder: Encoder, seed: int) -> Encoder:
    """The same network with fresh weights, a function of the seed."""
    torch.manual_seed(mix(seed))
    return twin(encoder)


def ways(name: str, encoder: Encoder, patch: tuple[int, int] | None) -> dict[str, Network]:
    """How the network may read a picture: whole and, if it was trained on patches, patch by patch."""
    if patch is None:
        return {name: encoder}
    return {f"{name} (whole)": encoder, f"{name} (patch)": features.Patchwise(encoder, *patch)}


def picture_size(card: WeightsCard) -> int:
    """Side at which files are read: what pretraining read; tiles may have been enlarged after that."""
    return int(card.training.get("picture_size", card.image_size))


def reader_of(network: Network, card: WeightsCard) -> InputTransform:
    """What turns pictures into the network's input."""
    return InputTransform.of(
        card, picture_size(card) if isinstance(network, features.Patchwise) else card.image_size
    )


def recalibrate(network: Network, card: WeightsCard, pictures: LabelledPictures) -> None:
    """Give batch norm the statistics of whole training pictures."""
    some = pictures.read("train", picture_size(card), most=_RECALIBRATION)
    features.recalibrate_batch_norm(
        network, (images for images, _ in some), reader_of(network, card)
    )


def read(
    network: Network,
    card: WeightsCard,
    pictures: LabelledPictures,
    store: FeatureStore,
    *,
    grid: int,
    recalibrated: bool,
) -> Features:
    """Features of both splits, from the store if they are there, after batch norm has seen whole pictures.

    Args:
        network: Moved to the best device; its batch-norm statistics change if ``recalibrated``.
        card: What it was trained on.
        pictures: What to read.
        store: Where features are kept.
        grid: Numbers of the stages' grids, see `features.stream`.
        recalibrated: Whether batch norm is given the statistics of these training pictures first.
    """
    network.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, reader = picture_size(card), reader_of(network, card)
    facts = {
        "weights": hash_of_weights(network),
        "patchwise": isinstance(network, features.Patchwise) and card.patch,
        "reader": [reader.size, card.mean, card.std, card.color_space],
        "size": size,
        "recalibrated": pictures.fingerprint("train") if recalibrated else "",
        "versions": [ssltool.__version__, torch.__version__],
        "device": best_device().type,
    }
    if recalibrated:
        recalibrate(network, card, pictures)

    def rows(split: Split) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        places: list[Tensor] = []
        batches = noting(pictures.read(split, size), places)
        for stages in features.stream(network, batches, reader, grid):
            yield stages, places.pop()

    def key(split: Split) -> str:
        return key_of(**facts, pictures=pictures.fingerprint(split), grid=grid)

    def known_or_read(split: Split) -> Stored:
        return store.get(key(split)) or store.put(key(split), rows(split))

    return Features(known_or_read("train"), known_or_read("test"), key("test"))


def hash_of_weights(network: torch.nn.Module) -> str:
    """A name for the numbers of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_pixels(pictures: LabelledPictures, size: int, store: FeatureStore) -> Features:
    """Raw pixels of both splits."""
    side, channels = features.pixel_form(
        images for images, _ in pictures.read("train", size, most=_RECALIBRATION)
    )

    def rows(split: Split) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        for images, places in pictures.read(split, size):
            yield {"pixels": features.pixels(images, side, channels)}, places

    def key(split: Split) -> str:
        return key_of(pixels=[size, side, channels], pictures=pictures.fingerprint(split))

    def known_or_read(split: Split) -> Stored:
        return store.get(key(split)) or store.put(key(split), rows(split))

    return Features(known_or_read("train"), known_or_read("test"), key("test"))


def noting(batches: Iterator[tuple[Tensor, Tensor]], places: list[Tensor]) -> Iterator[Tensor]:
    """Pass pictures on and keep their places."""
    for images, which in batches:
        places.append(which)
        yield images


def health_of(network: Network, card: WeightsCard, pictures: LabelledPictures) -> dict[str, Any]:
    """Numbers of the pooled features of some test pictures and of their mirror images."""
    reader = reader_of(network, card)
    images = [images for images, _ in pictures.read("test", picture_size(card), most=MOST)]
    plain, mirrored = (
        features.extract(network, batches, reader)[features.POOLED]
        for batches in (images, [i.flip(-1) for i in images])
    )
    found = health(plain, mirrored)
    return {
        **{
            name: None if value is None else round(value, 4)
            for name, value in found._asdict().items()
        },
        "warning": found.warning,
    }
