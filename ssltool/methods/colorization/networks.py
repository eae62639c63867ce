"""Heads of the colorization network: last feature map to color logits.

Zhang, Isola & Efros, "Colorful Image Colorization", ECCV 2016. Layers follow the released
definitions; the paper's backbones are ``colornet`` and ``color_alexnet`` in `ssltool.encoders`.
Weights are He-initialized: the release's k-means initialization normalizes activations, as batch
norm does here.
"""

from __future__ import annotations

from torch import nn

from ssltool.encoders.layers import full_precision
from ssltool.methods.colorization.options import ColorHead


def color_head(kind: ColorHead, width: int, outputs: int) -> nn.Sequential:
    """Map ``[B, width, n, n]`` to ``[B, outputs, n, n]``, or to 2n x 2n for ``deep``;
    float32 at any precision.
    """
    if kind == "fcn":
        layers = [nn.Conv2d(width, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
    elif kind == "deep":
        layers = [nn.ConvTranspose2d(width, 256, 4, stride=2, padding=1), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()]
    else:
        fc6 = nn.Conv2d(width, 4096, 6, dilation=2, padding=5, bias=False)
        layers = [fc6, nn.BatchNorm2d(4096), nn.ReLU()]
        layers += [nn.Conv2d(4096, 4096, 1, bias=False), nn.BatchNorm2d(4096), nn.ReLU()]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    last = full_precision.Conv2d(256 if kind != "fc" else 4096, outputs, 1)
    # Small last weights: the first cross-entropy is ln Q, that of the uniform distribution.
    nn.init.normal_(last.weight, std=0.001)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
