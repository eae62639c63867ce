"""`CaffeNet`: the AlexNet-style column of the jigsaw paper's Context-Free Network.

Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
ECCV 2016. Layers follow the authors' released network: two groups in conv2, conv4 and conv5, local
response normalization, and pooling that rounds up (Caffe's rule). Rounding up gives a 64-px tile a
3x3 ``pool5`` of 2304 values and a 75-px tile the paper's 4x4; rounding down would leave a 64-px
tile 2x2. It differs from torchvision's ``alexnet``.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from ssltool.encoders.layers.local_response_norm import LocalResponseNorm


class CaffeNet(nn.Module):
    """conv1 to conv5 of the Context-Free Network (2,334,080 parameters), without a classifier.

    The weights are He-initialized (Kaiming normal, fan-in, biases zero). The paper states no
    initialization. Caffe's usual Gaussian of std 0.01, or torch's default, shrinks the signal at
    every layer of a network without batch norm; He's rule keeps its scale.

    Args:
        conv1_stride: 2 for the jigsaw task, 4 to transfer to whole images, as in the paper. The
            parameters are the same.
    """

    def __init__(self, conv1_stride: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(3, 96, 11, stride=conv1_stride),
                relu1=nn.ReLU(inplace=True),
                pool1=_pool(),
                norm1=LocalResponseNorm(96),
                conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
                relu2=nn.ReLU(inplace=True),
                pool2=_pool(),
                norm2=LocalResponseNorm(256),
                conv3=nn.Conv2d(256, 384, 3, padding=1),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
                relu5=nn.ReLU(inplace=True),
                pool5=_pool(),
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images or tiles ``[B, 3, H, W]`` to the global average of ``pool5``, ``[B, 256]``."""
        pooled: Tensor = self.avgpool(self.features(x)).flatten(1)
        return pooled


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
