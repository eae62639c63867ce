"""Following a network in training: what it would be worth to a probe now, and whether its features
are collapsing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.distributed.batch_norm import copy_alone
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.transform import InputTransform
from ssltool.probing import features
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.extraction import noting, read_size, reader_of, recalibrate
from ssltool.probing.health import health
from ssltool.probing.knn import knn_accuracy

_FOLLOWED = 5000  # images read each time
_K = 20


class OnlineKNN:
    """Follows a network by the kNN accuracy of its pooled features on labeled data.

    Args:
        data: Labeled data, of which a fifth is held out.
        batch_size: Images per batch.
        seed: Of the split.
    """

    def __init__(
        self, data: tuple[str, ...], batch_size: int, seed: int, device: torch.device
    ) -> None:
        self._device = device
        self._images = LabeledImages(
            data, seed=seed, batch_size=batch_size, workers=0, most=_FOLLOWED
        )

    def accuracy(self, encoder: Encoder, metadata: EncoderMetadata) -> float:
        """Share of the held-out images whose 20 nearest training images name their class, 0..1.

        The encoder stays as it is, since a copy is read, and nothing is drawn from a global
        generator.
        """
        data, network = self._images, copy_alone(encoder).to(self._device)
        recalibrate(network, metadata, data)

        def read(split: Split) -> tuple[Tensor, Tensor]:
            places: list[Tensor] = []
            batches = noting(data.read(split, read_size(metadata)), places)
            found = features.extract(network, batches, reader_of(network, metadata))[
                features.POOLED
            ]
            return found, data.labels(split, torch.cat(places)).to(found.device)

        return knn_accuracy(*read("train"), *read("test"), len(data.classes), ks=(_K,))[_K] / 100


class CollapseMonitor:
    """Looks at the features of a few images now and then, and says once if they are collapsing.

    Args:
        images: uint8 ``[B, 3, S, S]``, on the device of the encoder.
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self._said = False

    def measure(self, encoder: Encoder, metadata: EncoderMetadata) -> tuple[dict[str, float], str]:
        """Numbers for a line of metrics, and a warning, the first time there is one. The encoder
        stays as it is.
        """
        found = features.extract(encoder, [self._images], InputTransform.of(metadata))[
            features.POOLED
        ]
        healthy = health(found)
        warning = "" if self._said else healthy.warning
        self._said = self._said or bool(warning)
        return {"effective_rank": healthy.effective_rank, "feature_std": healthy.std}, warning
