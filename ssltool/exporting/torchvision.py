"""Hand an encoder on to plain torchvision, and make sure that it arrived.

The file holds the backbone under torchvision's own key names, without a prefix and without the
classifier, so ``resnet18().load_state_dict(load_file(F), strict=False)`` finds everything but
``fc``.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.weights import load_encoder, save_encoder
from ssltool.errors import WeightsError

_TOLERANCE = 1e-6


def export(encoder: Encoder, to: Path) -> Encoder:
    """Write an encoder to ``to``, load it back and compare features on noise images.

    Args:
        encoder: In evaluation mode, with its card.
        to: File to write, replaced atomically.

    Returns:
        The encoder as loaded back, its card attached.

    Raises:
        WeightsError: The copy computes other features.
    """
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    save_encoder(encoder, metadata, to)
    copy = load_encoder(to).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(
        2, metadata.in_channels, metadata.image_size, metadata.image_size, generator=generator
    )
    with torch.no_grad():
        difference = float((encoder(images) - copy(images)).abs().max())
    if not difference <= _TOLERANCE:
        raise WeightsError(
            f"{to} computes features that differ by {difference:.2g} from the exported; do not "
            "use it"
        )
    return copy
