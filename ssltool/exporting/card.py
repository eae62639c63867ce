"""The model card written beside exported weights."""

from __future__ import annotations

from ssltool.nn.card import WeightsCard
from ssltool.nn.encoders import PAPER_NETWORKS


def model_card(card: WeightsCard, file: str) -> str:
    """Markdown that says where the weights come from and how to use them, with code that runs as it stands."""
    stages = "\n".join(f"| {stage.name} | {stage.width} | {stage.stride} |" for stage in card.stages)
    training = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in card.training.items())
    return f"""# {card.backbone} pretrained with {card.method}

An image encoder trained without labels by [ssltool](https://pypi.org/project/ssltool/), method `{card.method}`.

- file: `{file}` (safetensors, torchvision key names, no classifier)
- stem: {card.stem}, input: {card.in_channels} channel(s), {card.color_space}
- picture size to read features at: {card.image_size} px
- mean: {_numbers(card.mean)}, standard deviation: {_numbers(card.std)} (pictures on a 0..1 scale)
- feature: {card.width} numbers

## Use

```python
import ssltool

encoder = ssltool.load_encoder("{file}").eval()
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
    if card.stem != "imagenet" or card.in_channels != 3 or card.backbone in PAPER_NETWORKS:
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


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
