"""Online kNN evaluation and collapse monitoring of an encoder in training."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from ssltool.data.channels import Channels
from ssltool.distributed.batch_norm import copy_alone
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.transform import InputTransform
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.extraction import encoder_variants, recalibrate
from ssltool.probing.features import (
    POOLED,
    FeatureExtractor,
    check_finite,
    extract,
    no_images,
)
from ssltool.probing.health import health
from ssltool.probing.knn import knn_accuracy

_MAX_IMAGES = 5000  # read at each evaluation
_K = 20


class OnlineKNN:
    """kNN accuracy of an encoder's pooled features on labeled images.

    Args:
        data: Labeled images, of which a fifth is held out.
        batch_size: Images per batch.
        seed: Of the split.
        device: Where features are computed.
        channels: How files are read as they are; None for RGB.
    """

    def __init__(
        self,
        data: tuple[str, ...],
        batch_size: int,
        seed: int,
        device: torch.device,
        channels: Channels | None = None,
    ) -> None:
        self._device, self._seed = device, seed
        self._images = LabeledImages(
            data,
            seed=seed,
            batch_size=batch_size,
            workers=0,
            device=device,
            max_images=_MAX_IMAGES,
            channels=channels,
        )

    @property
    def chance(self) -> float:
        """Accuracy of always predicting the most frequent class of the training images, 0..1."""
        train, test = (self._images.labels(split) for split in ("train", "test"))
        majority = torch.bincount(train, minlength=len(self._images.classes)).argmax()
        return float((test == majority).double().mean())

    @property
    def images(self) -> str:
        """Identifies the images, their split and their labels, wherever they lie; never empty."""
        parts = [self._images.identity(split) for split in ("train", "test")]
        found = [part[1:] if part else None for part in parts]  # without the location
        facts = json.dumps([found, self._images.label_fingerprint()])
        return hashlib.sha256(facts.encode()).hexdigest()[:32]

    def accuracy(self, encoder: Encoder, metadata: EncoderMetadata) -> float:
        """Top-1 accuracy of 20 nearest neighbors on the held-out images, 0..1.

        A copy of the encoder is evaluated, and no global generator is used.
        """
        network = copy_alone(encoder).to(self._device)
        variant = encoder_variants(network, metadata, "pretrained", patches=False)[0]
        recalibrate([variant], self._images, self._seed)
        extractor = FeatureExtractor(network, variant.transform)

        def features_and_labels(split: Split) -> tuple[Tensor, Tensor]:
            batches = self._images.labeled_batches(split, metadata.read_size)
            pairs = [(extractor(images)[POOLED], labels) for images, labels in batches]
            if not pairs:
                raise no_images(self._images.skipped)
            features = torch.cat([features for features, _ in pairs])
            check_finite(POOLED, features)
            return features, torch.cat([labels for _, labels in pairs]).to(self._device)

        train, test = features_and_labels("train"), features_and_labels("test")
        return knn_accuracy(*train, *test, len(self._images.classes), ks=(_K,))[_K] / 100


class CollapseMonitor:
    """Measures the spread of the features of some images, and warns once if they collapse.

    Args:
        images: uint8 ``[B, 3, S, S]``, on the device of the encoder.
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self._warned = False

    def measure(self, encoder: Encoder, metadata: EncoderMetadata) -> tuple[dict[str, float], str]:
        """Metrics ``effective_rank`` and ``feature_std``, and a warning, the first time there is
        one. The encoder is left as it is.
        """
        features = extract(encoder, [self._images], InputTransform.of(metadata))[POOLED]
        spread = health(features)
        warning = "" if self._warned else spread.warning
        self._warned = self._warned or bool(warning)
        measured = {"effective_rank": spread.effective_rank, "feature_std": spread.std}
        return {name: value for name, value in measured.items() if value is not None}, warning
