"""Features of labeled images: from the store if they were read before, else through the network,
once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ssltool
from ssltool.device import best_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.registry import reinitialized_copy
from ssltool.encoders.transform import InputTransform
from ssltool.ops.per_image_rng import mix
from ssltool.probing import features
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.health import MOST, health
from ssltool.probing.store import FeatureStore, Stored, key_of

Network = Encoder | features.Patchwise


class Features(NamedTuple):
    """Features of both splits.

    Attributes:
        train: Of the training data.
        test: Of the test data.
        key: Equal for features that were made alike.
    """

    train: Stored
    test: Stored
    key: str


_RECALIBRATION = 1024  # images whose statistics batch norm is given


def random_init(encoder: Encoder, seed: int) -> Encoder:
    """The same network with fresh weights, a function of the seed."""
    torch.manual_seed(mix(seed))
    return reinitialized_copy(encoder)


def ways(name: str, encoder: Encoder, patch: tuple[int, int] | None) -> dict[str, Network]:
    """How the network may read an image: whole and, if it was trained on patches, patch by patch."""
    if patch is None:
        return {name: encoder}
    return {f"{name} (whole)": encoder, f"{name} (patch)": features.Patchwise(encoder, *patch)}


def read_size(metadata: EncoderMetadata) -> int:
    """Side at which files are read: what pretraining read; tiles may have been enlarged after that."""
    return metadata.read_size


def reader_of(network: Network, metadata: EncoderMetadata) -> InputTransform:
    """What turns images into the network's input."""
    return InputTransform.of(
        metadata,
        read_size(metadata) if isinstance(network, features.Patchwise) else metadata.image_size,
    )


def recalibrate(network: Network, metadata: EncoderMetadata, data: LabeledImages) -> None:
    """Give batch norm the statistics of whole training data."""
    some = data.read("train", read_size(metadata), most=_RECALIBRATION)
    features.recalibrate_batch_norm(
        network, (images for images, _ in some), reader_of(network, metadata)
    )


def read(
    network: Network,
    metadata: EncoderMetadata,
    data: LabeledImages,
    store: FeatureStore,
    *,
    grid: int,
    recalibrated: bool,
) -> Features:
    """Features of both splits, from the store if they are there, after batch norm has seen whole
    data.

    Args:
        network: Moved to the best device; its batch-norm statistics change if ``recalibrated``.
        metadata: What it was trained on.
        images: What to read.
        store: Where features are kept.
        grid: Numbers of the stages' grids, see `features.stream`.
        recalibrated: Whether batch norm is given the statistics of these training images first.
    """
    network.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, reader = read_size(metadata), reader_of(network, metadata)
    facts = {
        "weights": hash_of_weights(network),
        "patchwise": isinstance(network, features.Patchwise) and metadata.patch,
        "reader": [reader.size, metadata.mean, metadata.std, metadata.color_space],
        "size": size,
        "recalibrated": data.fingerprint("train") if recalibrated else "",
        "versions": [ssltool.__version__, torch.__version__],
        "device": best_device().type,
    }
    if recalibrated:
        recalibrate(network, metadata, data)

    def rows(split: Split) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        places: list[Tensor] = []
        batches = noting(data.read(split, size), places)
        for stages in features.stream(network, batches, reader, grid):
            yield stages, places.pop()

    def key(split: Split) -> str:
        return key_of(**facts, images=data.fingerprint(split), grid=grid)

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


def read_pixels(data: LabeledImages, size: int, store: FeatureStore) -> Features:
    """Raw pixels of both splits."""
    side, channels = features.pixel_form(
        images for images, _ in data.read("train", size, most=_RECALIBRATION)
    )

    def rows(split: Split) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        for images, places in data.read(split, size):
            yield {"pixels": features.pixels(images, side, channels)}, places

    def key(split: Split) -> str:
        return key_of(pixels=[size, side, channels], images=data.fingerprint(split))

    def known_or_read(split: Split) -> Stored:
        return store.get(key(split)) or store.put(key(split), rows(split))

    return Features(known_or_read("train"), known_or_read("test"), key("test"))


def noting(batches: Iterator[tuple[Tensor, Tensor]], places: list[Tensor]) -> Iterator[Tensor]:
    """Pass images on and keep their places."""
    for images, which in batches:
        places.append(which)
        yield images


def health_of(network: Network, metadata: EncoderMetadata, data: LabeledImages) -> dict[str, Any]:
    """Numbers of the pooled features of some test images and of their mirror images."""
    reader = reader_of(network, metadata)
    images = [images for images, _ in data.read("test", read_size(metadata), most=MOST)]
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
