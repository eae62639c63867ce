"""The two networks of the colorization paper, without their prediction heads.

Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016: the colorization network, about as
deep as VGG, and the AlexNet of the paper's tables of representation learning. Layers follow the
authors' released definitions. Both read lightness there; with one input channel they have the
release's number of parameters.

Batch norm has no scale and shift, as in the release. The weights are He-initialized; the release
uses a k-means initialization.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

# Channels, convolutions, stride of the last of them, dilation: conv1 to conv7.
_BLOCKS = (
    (64, 2, 2, 1),
    (128, 2, 2, 1),
    (256, 3, 2, 1),
    (512, 3, 1, 1),
    (512, 3, 1, 2),
    (512, 3, 1, 2),
    (512, 3, 1, 1),
)


class _Features(nn.Module):
    """A stack of layers and the global average of its last map."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` to the global average of the last map, ``[B, D]``."""
        pooled: Tensor = self.avgpool(self.features(x)).flatten(1)
        return pooled


def colornet() -> nn.Module:
    """conv1 to conv7 of the colorization network: 512 channels at an eighth of the side.

    Convolutions of stride 2 replace pooling; each block ends with ReLU and batch norm. With the
    head conv8 of 313 bins it has 32,230,393 parameters.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for block, (width, convolutions, stride, dilation) in enumerate(_BLOCKS, 1):
        for number in range(1, convolutions + 1):
            step = stride if number == convolutions else 1
            layers[f"conv{block}_{number}"] = nn.Conv2d(
                before, width, 3, step, padding=dilation, dilation=dilation
            )
            layers[f"relu{block}_{number}"] = nn.ReLU(inplace=True)
            before = width
        layers[f"norm{block}"] = nn.BatchNorm2d(width, affine=False)
    return _Features(nn.Sequential(layers))


def color_alexnet() -> nn.Module:
    """conv1 to conv5 and pool5 of the AlexNet (2,310,848 parameters with one input channel).

    Two groups in conv2, conv4 and conv5; batch norm before each ReLU; padded pooling, the last of
    stride 1, so that 180 px images give a 12x12 map.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    rows = ((96, 11, 4, 1), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 2), (256, 3, 1, 2))
    pool_strides = {1: 2, 2: 2, 5: 1}
    before = 3
    for number, (width, kernel, stride, groups) in enumerate(rows, 1):
        layers[f"conv{number}"] = nn.Conv2d(
            before, width, kernel, stride, padding=kernel // 2, groups=groups
        )
        layers[f"norm{number}"] = nn.BatchNorm2d(width, affine=False)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        if number in pool_strides:
            layers[f"pool{number}"] = nn.MaxPool2d(3, pool_strides[number], padding=1)
        before = width
    return _Features(nn.Sequential(layers))


COLORNETS: dict[str, Callable[[], nn.Module]] = {
    "colornet": colornet,
    "color_alexnet": color_alexnet,
}
