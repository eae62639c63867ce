"""Write an encoder under torchvision's key names, load it back and compare the features.

The file holds the backbone without a prefix and without the classifier, so
``resnet18().load_state_dict(load_file(F), strict=False)`` misses nothing but ``fc``.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.weights import load_encoder, save_encoder
from ssltool.errors import WeightsError

_TOLERANCE = 1e-6


def save_verified(encoder: Encoder, path: Path) -> Encoder:
    """Write an encoder, load it back and compare features of random images.

    Args:
        encoder: On the CPU, in evaluation mode, with its metadata.
        path: File to write, replaced atomically.

    Returns:
        The encoder as loaded back.

    Raises:
        WeightsError: The copy computes other features.
    """
    metadata = encoder.metadata
    save_encoder(encoder, metadata, path)
    copy = load_encoder(path)
    generator = torch.Generator().manual_seed(0)
    side = metadata.image_size
    images = torch.rand(2, metadata.in_channels, side, side, generator=generator)
    with torch.no_grad():
        difference = float((encoder(images) - copy(images)).abs().max())
    if not difference <= _TOLERANCE:
        raise WeightsError(
            f"{path} computes features that differ by {difference:.2g} from those of the encoder; "
            "do not use it"
        )
    return copy
