"""The model card written beside exported weights."""

from __future__ import annotations

from ssltool.encoders.families import PAPER_NETWORKS
from ssltool.encoders.metadata import EncoderMetadata

_INPUT = {
    "rgb": "RGB",
    "lightness": "lightness L / 100 of CIE Lab (D65)",
    "lab": "CIE Lab (D65), L / 100, a / 100, b / 100",
}


def model_card(metadata: EncoderMetadata, file: str) -> str:
    """Markdown that says where the weights come from and how to use them, with code that runs as it
    stands.
    """
    stages = "\n".join(
        f"| {stage.name} | {stage.width} | {stage.stride} |" for stage in metadata.stages
    )
    training = "\n".join(
        f"- {name.replace('_', ' ')}: {value}" for name, value in metadata.training.items()
    )
    return f"""# {metadata.backbone} pretrained with {metadata.method}

An image encoder trained without labels by [ssltool](https://pypi.org/project/ssltool/), method `{metadata.method}`.

- file: `{file}` (safetensors, torchvision key names, no classifier)
- stem: {metadata.stem}, norm: {metadata.norm}, input: {metadata.in_channels} channel(s), {_INPUT[metadata.color_space]}
- image size to read features at: {metadata.image_size} px
- mean: {_numbers(metadata.mean)}, standard deviation: {_numbers(metadata.std)} (images on a 0..1 scale)
- feature: {metadata.width} numbers{_patches(metadata)}

## Use

```python
import ssltool

encoder = ssltool.load_encoder("{file}").eval()
# resizes, converts and normalizes uint8 [B, 3, S, S] images, RGB
read = ssltool.InputTransform.of(encoder.metadata)
# features = encoder(read(images))
```
{_plain_torch(metadata, file)}
## Stages

| stage | width | stride |
|---|---|---|
{stages}

## Training

{training}
"""


def _plain_torch(metadata: EncoderMetadata, file: str) -> str:
    """How to load the file without ssltool, where torchvision's own model fits it."""
    changed = (
        metadata.norm != "batch" or metadata.patch is not None
    )  # other layers, or fewer, than torchvision's
    if (
        metadata.stem != "imagenet"
        or metadata.in_channels != 3
        or metadata.backbone in PAPER_NETWORKS
        or changed
    ):
        return ""
    return f"""
Without ssltool:

```python
from safetensors.torch import load_file
from torchvision.models import {metadata.backbone}

model = {metadata.backbone}()
model.load_state_dict(load_file("{file}"), strict=False)  # only the classifier is missing
```
"""


def _patches(metadata: EncoderMetadata) -> str:
    if metadata.patch is None:
        return ""
    side, stride = metadata.patch
    return f" of a patch of {side} px, one every {stride} px (averaged over the image), or of a whole image"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
