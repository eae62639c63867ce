"""The model card written beside exported weights."""

from __future__ import annotations

from ssltool.encoders.families import PAPER_NETWORKS
from ssltool.encoders.metadata import WeightsCard

_INPUT = {
    "rgb": "RGB",
    "lightness": "lightness L / 100 of CIE Lab (D65)",
    "lab": "CIE Lab (D65), L / 100, a / 100, b / 100",
}


def model_card(card: WeightsCard, file: str) -> str:
    """Markdown that says where the weights come from and how to use them, with code that runs as it stands."""
    stages = "\n".join(
        f"| {stage.name} | {stage.width} | {stage.stride} |" for stage in card.stages
    )
    training = "\n".join(
        f"- {name.replace('_', ' ')}: {value}" for name, value in card.training.items()
    )
    return f"""# {card.backbone} pretrained with {card.method}

An image encoder trained without labels by [ssltool](https://pypi.org/project/ssltool/), method `{card.method}`.

- file: `{file}` (safetensors, torchvision key names, no classifier)
- stem: {card.stem}, norm: {card.norm}, input: {card.in_channels} channel(s), {_INPUT[card.color_space]}
- picture size to read features at: {card.image_size} px
- mean: {_numbers(card.mean)}, standard deviation: {_numbers(card.std)} (pictures on a 0..1 scale)
- feature: {card.width} numbers{_patches(card)}

## Use

```python
import ssltool

encoder = ssltool.load_encoder("{file}").eval()
read = ssltool.InputTransform.of(encoder.card)  # resizes, converts and normalises uint8 [B, 3, S, S] pictures, RGB
# features = encoder(read(pictures))
```
{_plain_torch(card, file)}
## Stages

| stage | width | stride |
|---|---|---|
{stages}

## Training

{training}
"""


def _plain_torch(card: WeightsCard, file: str) -> str:
    """How to load the file without ssltool, where torchvision's own model fits it."""
    changed = (
        card.norm != "batch" or card.patch is not None
    )  # other layers, or fewer, than torchvision's
    if (
        card.stem != "imagenet"
        or card.in_channels != 3
        or card.backbone in PAPER_NETWORKS
        or changed
    ):
        return ""
    return f"""
Without ssltool:

```python
from safetensors.torch import load_file
from torchvision.models import {card.backbone}

model = {card.backbone}()
model.load_state_dict(load_file("{file}"), strict=False)  # only the classifier is missing
```
"""


def _patches(card: WeightsCard) -> str:
    if card.patch is None:
        return ""
    side, stride = card.patch
    return f" of a patch of {side} px, one every {stride} px (averaged over the picture), or of a whole picture"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
