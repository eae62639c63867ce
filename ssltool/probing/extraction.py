"""Extraction of features from labeled images, cached on disk; each image is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ssltool
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.registry import reinitialized_copy
from ssltool.encoders.transform import InputTransform
from ssltool.ops.per_image_rng import mix
from ssltool.probing import features
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.features import POOLED, FeatureExtractor, PatchEncoder
from ssltool.probing.health import MAX_IMAGES, health
from ssltool.probing.store import FeatureStore, StoredFeatures, cache_key
from ssltool.runs.records import FeatureKind, FeatureSource, HealthRow

_RECALIBRATION = 1024  # images from which batch-norm statistics are estimated


class Features(NamedTuple):
    """Features of both splits.

    Attributes:
        train: Of the training images.
        test: Of the test images.
        key: Equal for features that were computed alike.
    """

    train: StoredFeatures
    test: StoredFeatures
    key: str


class EncoderVariant(NamedTuple):
    """An encoder and how it reads an image: whole, or as a grid of patches.

    Attributes:
        source: Identifies its features.
        network: The encoder, or the encoder applied to patches.
        metadata: Of the weights.
    """

    source: FeatureSource
    network: Encoder | PatchEncoder
    metadata: EncoderMetadata

    @property
    def transform(self) -> InputTransform:
        """What turns images into the network's input. Patches are cut at the size files are read
        at.
        """
        patches = isinstance(self.network, PatchEncoder)
        size = self.metadata.read_size if patches else self.metadata.image_size
        return InputTransform.of(self.metadata, size)


def encoder_variants(
    encoder: Encoder, metadata: EncoderMetadata, kind: FeatureKind, *, patches: bool = True
) -> list[EncoderVariant]:
    """The whole-image variant and, for an encoder trained on patches, the patch variant.

    Args:
        encoder: The network.
        metadata: Of the pretrained weights, for a random init as well.
        kind: ``pretrained`` or ``random_init``.
        patches: Whether the patch variant is wanted.
    """
    source = FeatureSource(
        kind=kind,
        method=metadata.method if kind == "pretrained" else "",
        network=network_summary(metadata),
    )
    variants = [EncoderVariant(source, encoder, metadata)]
    if patches and metadata.patch is not None:
        of_patches = source.model_copy(update={"variant": "patches"})
        network = PatchEncoder(encoder, *metadata.patch)
        variants.append(EncoderVariant(of_patches, network, metadata))
    return variants


def network_summary(metadata: EncoderMetadata) -> str:
    """Backbone, stem, norm and channels in words."""
    norm = "" if metadata.norm == "batch" else f"{metadata.norm} norm, "
    plural = "s" if metadata.in_channels > 1 else ""
    channels = f"{metadata.in_channels} channel{plural}"
    return f"{metadata.backbone}, {metadata.stem} stem, {norm}{channels}"


def random_init(encoder: Encoder, seed: int) -> Encoder:
    """The same network with new weights, a function of the seed."""
    torch.manual_seed(mix(seed))
    return reinitialized_copy(encoder)


def recalibrate(variant: EncoderVariant, data: LabeledImages) -> None:
    """Re-estimate batch-norm statistics on whole training images."""
    batches = data.batches("train", variant.metadata.read_size, limit=_RECALIBRATION)
    features.recalibrate_batch_norm(
        variant.network, (images for images, _ in batches), variant.transform
    )


class Extractor:
    """Computes features of labeled images, or takes them from the store.

    Args:
        data: The images.
        store: Cache of features.
        device: Where features are computed.
        grid_dim: Largest dimension of the stages' grids, see `FeatureExtractor`; 0 for none.
        recalibrate: Whether batch-norm statistics are re-estimated on the training images first.
    """

    def __init__(
        self,
        data: LabeledImages,
        store: FeatureStore,
        device: torch.device,
        *,
        grid_dim: int = 0,
        recalibrate: bool = True,
    ) -> None:
        self._data, self._store, self._device = data, store, device
        self._grid_dim, self._recalibrate = grid_dim, recalibrate

    def features(self, variant: EncoderVariant) -> Features:
        """Features of both splits. The network is moved to the device, and its batch-norm
        statistics change if recalibrated.
        """
        network, metadata, transform = variant.network, variant.metadata, variant.transform
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = hash_of_weights(network)
        if self._recalibrate:
            recalibrate(variant, self._data)
        extractor = FeatureExtractor(network, transform, self._grid_dim)
        return self._extracted(
            extractor,
            metadata.read_size,
            weights=weights,
            patch=metadata.patch if isinstance(network, PatchEncoder) else None,
            transform=[transform.size, metadata.mean, metadata.std, metadata.color_space],
            recalibrated=self._data.fingerprint("train") if self._recalibrate else "",
            versions=[ssltool.__version__, torch.__version__],
            device=self._device.type,
            grid=self._grid_dim,
        )

    def pixels(self, size: int) -> Features:
        """Raw pixels of both splits, of files read at ``size``; the stage is called ``pixels``."""
        sample = self._data.batches("train", size, limit=_RECALIBRATION)
        side, channels = features.pixel_format(images for images, _ in sample)
        return self._extracted(
            lambda images: {"pixels": features.pixels(images, side, channels)},
            size,
            pixels=[side, channels],
        )

    def health(self, variant: EncoderVariant) -> HealthRow:
        """Spread of the pooled features of test images, and their alignment with mirror images."""
        size = variant.metadata.read_size
        images = [images for images, _ in self._data.batches("test", size, limit=MAX_IMAGES)]
        plain, mirrored = (
            features.extract(variant.network, batches, variant.transform)[POOLED]
            for batches in (images, [batch.flip(-1) for batch in images])
        )
        measured = health(plain, mirrored)
        return HealthRow(
            source=variant.source,
            effective_rank=round(measured.effective_rank, 4),
            std=round(measured.std, 4),
            uniformity=round(measured.uniformity, 4),
            alignment=None if measured.alignment is None else round(measured.alignment, 4),
            warning=measured.warning,
        )

    def _extracted(
        self, extract: Callable[[Tensor], Mapping[str, Tensor]], size: int, **identity: Any
    ) -> Features:
        """Features of both splits, cached under what they are a function of."""

        def batches(split: Split) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
            for images, indices in self._data.batches(split, size):
                yield extract(images), indices

        def stored(split: Split) -> tuple[str, StoredFeatures]:
            key = cache_key(**identity, size=size, images=self._data.fingerprint(split))
            return key, self._store.get(key) or self._store.put(key, batches(split))

        (_, train), (key, test) = stored("train"), stored("test")
        return Features(train, test, key)


def hash_of_weights(network: torch.nn.Module) -> str:
    """SHA-256 in hex of the names, shapes and values of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
