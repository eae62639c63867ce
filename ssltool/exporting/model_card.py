"""The model card beside exported weights: Markdown with provenance, input and code to load them."""

from __future__ import annotations

import json
import re

from ssltool.console import printable
from ssltool.encoders.families import PAPER_NETWORKS
from ssltool.encoders.metadata import EncoderMetadata

_INPUT = {
    "rgb": "RGB",
    "lightness": "lightness L / 100 of CIE Lab (D65)",
    "lab": "CIE Lab (D65), L / 100, a / 100, b / 100",
}


def model_card(metadata: EncoderMetadata, file: str) -> str:
    """Render the model card of a weights file; its code runs as it stands.

    Args:
        metadata: Of the weights.
        file: Name of the weights file.
    """
    channels = f"{metadata.in_channels} channel{'s' * (metadata.in_channels > 1)}"
    facts = [
        f"file: {_code(file)} (safetensors, torchvision key names, no classifier)",
        f"stem: {metadata.stem}, norm: {metadata.norm}, input: {channels}, "
        + _INPUT[metadata.color_space],
        f"image size for feature extraction: {metadata.image_size} px",
        f"mean: {_decimals(metadata.mean)}, standard deviation: {_decimals(metadata.std)} "
        "(images on a 0..1 scale)",
        f"feature: {metadata.width} dimensions{_receptive_patch(metadata)}",
    ]
    if metadata.standardize != "data":
        facts.append(
            "in pretraining and by `encoder.transform` each image is normalized by its own mean "
            "and deviation; those above are the data's, for code that needs fixed ones"
        )
    if metadata.converted_from:
        accuracy = "approximation" if metadata.color_space == "rgb" else "exact conversion"
        facts.append(f"trained on {metadata.converted_from}; this form is an {accuracy}")
    rows = [f"| {stage.name} | {stage.width} | {stage.stride} |" for stage in metadata.stages]
    stages = "\n".join(rows)
    return f"""# {metadata.backbone} pretrained with {metadata.method}

An image encoder trained without labels by
[ssltool](https://pypi.org/project/ssltool/), method `{metadata.method}`.

{_bullets(facts)}

## Use

```python
import ssltool

encoder = ssltool.load_encoder({json.dumps(file)})
# encoder.transform resizes, converts and normalizes uint8 [B, 3, S, S] images, RGB
# features = encoder(encoder.transform(images))
```
{_plain_torch(metadata, file)}
## Stages

| stage | width | stride |
|---|---|---|
{stages}
{_training(metadata)}"""


def _training(metadata: EncoderMetadata) -> str:
    if metadata.training is None:
        return ""
    facts = metadata.training.model_dump()
    rows = [f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    return f"\n## Training\n\n{_bullets(rows)}\n"


def _plain_torch(metadata: EncoderMetadata, file: str) -> str:
    """How to load the file without ssltool, if torchvision's own model fits it."""
    unchanged = metadata.stem == "imagenet" and metadata.norm == "batch" and metadata.patch is None
    if not unchanged or metadata.in_channels != 3 or metadata.backbone in PAPER_NETWORKS:
        return ""
    return f"""
Without ssltool:

```python
from safetensors.torch import load_file
from torchvision.models import {metadata.backbone}

model = {metadata.backbone}()
model.load_state_dict(load_file({json.dumps(file)}), strict=False)  # only the classifier is missing
```
"""


def _receptive_patch(metadata: EncoderMetadata) -> str:
    if metadata.patch is None:
        return ""
    side, stride = metadata.patch
    return (
        f" of a patch of {side} px, one every {stride} px (averaged over the image), or of a whole "
        "image"
    )


def _code(text: str) -> str:
    """A code span; its fence is longer than any run of backticks in the text."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _decimals(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
