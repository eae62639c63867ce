"""The weights file of ssltool, whose keys are torchvision's.

The file holds the backbone without a prefix and without the classifier, so
``resnet18().load_state_dict(load_file(F), strict=False)`` misses nothing but ``fc``.
"""

from __future__ import annotations

from ssltool.encoders.catalog import BACKBONES
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.families import PAPER_NETWORKS

WEIGHTS = "encoder.safetensors"


def torchvision_arguments(encoder: Encoder) -> dict[str, int] | None:
    """Arguments with which torchvision's own model, its classifier removed, is the encoder.

    None if none is: with a small stem, gray input, another norm or removed stages, and where
    torchvision pools the last map to a grid (AlexNet and VGG).
    """
    name = encoder.name
    fits = (
        name in BACKBONES
        and encoder.stem == "imagenet"
        and encoder.norm == "batch"
        and encoder.in_channels == 3
        and encoder.metadata.color_space != "channels"
        and tuple(stage.name for stage in encoder.stages) == BACKBONES[name].stages
        and name not in PAPER_NETWORKS
        and not name.startswith(("alexnet", "vgg"))
    )
    if not fits:
        return None
    return {} if encoder.image_size is None else {"image_size": encoder.image_size}
