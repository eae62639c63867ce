"""The two networks of the colorization paper, up to the layers that are kept, and the heads that
tell colors.

Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016: the network that makes the images,
about as deep as VGG, and the AlexNet behind the paper's tables of representation learning. Layers
follow the authors' released definitions. Both read lightness there, one channel, and with one
channel they have the release's parameters.

Batch norm has no scale and shift, as in the release. The weights are He-initialized; the release's
k-means initialization kept training from going astray where nothing normalized the signal, which
batch norm does here.
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
    """A stack of layers whose last map is averaged over its places."""

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
    """conv1 to conv7 of the network that makes the images: 512 channels, an eighth of the side.

    Convolutions of stride 2 instead of pooling; ReLU before batch norm, which ends each block. With
    the head conv8 of 313 bins it has 32,230,393 parameters.
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
    """conv1 to conv5 of the AlexNet for features (2,310,848 parameters with one input channel) and
    its pooling.

    Two groups in conv2, conv4 and conv5; batch norm before each ReLU; padded pooling, the last of
    stride 1, so that 180 px images end 12x12.
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
