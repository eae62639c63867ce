"""ResNets for small images: those of CIFAR, and half-width ResNet-10s for one laptop core.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2: a 3x3 stride-1
stem, no max-pool, and stages of ``n`` two-layer blocks. Blocks, key names (``conv1``,
``layer1.0.conv1``, ..., ``fc``) and initialization (Kaiming, fan-out) are torchvision's. One
difference from the paper: where the shape changes, the shortcut is torchvision's 1x1 projection
with batch norm (the paper's option B), not zero padding (option A), which adds 2,752 parameters to
each of the four CIFAR networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Module):
    """A ResNet of basic blocks with the small stem; each stage but the first halves the size.

    Args:
        widths: Channels of the stages; the stem has as many as the first.
        blocks: Basic blocks in each stage.
        num_classes: Outputs of ``fc``.
        stem_stride: Of the first convolution.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        num_classes: int = 1000,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            3, widths[0], kernel_size=3, stride=stem_stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(widths) + 1))
        before = widths[0]
        for number, (name, width) in enumerate(zip(self.stage_names, widths, strict=True)):
            self.add_module(name, _stage(before, width, blocks, stride=1 if number == 0 else 2))
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet20() -> SmallResNet:
    """ResNet-20 for CIFAR: three stages of three blocks, widths 16, 32, 64."""
    return SmallResNet((16, 32, 64), 3)


def resnet32() -> SmallResNet:
    """ResNet-32 for CIFAR: three stages of five blocks, widths 16, 32, 64."""
    return SmallResNet((16, 32, 64), 5)


def resnet44() -> SmallResNet:
    """ResNet-44 for CIFAR: three stages of seven blocks, widths 16, 32, 64."""
    return SmallResNet((16, 32, 64), 7)


def resnet56() -> SmallResNet:
    """ResNet-56 for CIFAR: three stages of nine blocks, widths 16, 32, 64."""
    return SmallResNet((16, 32, 64), 9)


def resnet10_w32() -> SmallResNet:
    """ResNet-10 at half width: four stages of one block, widths 32 to 256, 1.23 M parameters."""
    return SmallResNet((32, 64, 128, 256), 1)


def resnet10_w32_s2() -> SmallResNet:
    """`resnet10_w32` with a stem of stride 2: a quarter of the arithmetic, for whole images."""
    return SmallResNet((32, 64, 128, 256), 1, stem_stride=2)


SMALL_RESNETS: dict[str, Callable[[], SmallResNet]] = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet10_w32": resnet10_w32,
    "resnet10_w32_s2": resnet10_w32_s2,
}


def _stage(before: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Basic blocks; the first goes from ``before`` to ``width`` channels with ``stride``."""
    projection = None
    if stride != 1 or before != width:
        projection = nn.Sequential(
            nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )
    rest = [BasicBlock(width, width) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(before, width, stride, projection), *rest)
