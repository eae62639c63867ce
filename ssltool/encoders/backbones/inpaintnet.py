"""`InpaintNet`: the released inpainting network's encoder (Pathak et al. 2016, section 5.1)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class InpaintNet(nn.Module):
    """Five 4x4 convolutions of stride 2 and one over the 4x4 map of a 128 px image; no classifier.

    The convolutions have no bias (the released code zeroes it at every step), and no batch norm
    follows the first.
    """

    def __init__(self) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        before = 3
        for number, width in enumerate((64, 64, 128, 256, 512, 4000), 1):
            last = number == 6
            parts[f"conv{number}"] = nn.Conv2d(
                before, width, 4, stride=1 if last else 2, padding=0 if last else 1, bias=False
            )
            if number > 1:
                parts[f"bn{number}"] = nn.BatchNorm2d(width)
            parts[f"relu{number}"] = nn.LeakyReLU(0.2)
            before = width
        self.features = nn.Sequential(parts)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for part in self.features:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, mean=1.0, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` of 128 px or more to ``[B, 4000]``."""
        pooled: Tensor = self.avgpool(self.features(x)).flatten(1)
        return pooled
