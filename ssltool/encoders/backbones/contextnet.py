"""`ContextNet`: the AlexNet-style column of the context-prediction network.

Doersch, Gupta and Efros, "Unsupervised Visual Representation Learning by Context Prediction", ICCV
2015. Layers follow the authors' released network, which differs from figure 3: conv2 has 256
kernels and stride 1. Pooling rounds up (Caffe's rule), so that a 96 px patch gives a 3x3 map of
2304 values.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from ssltool.encoders.layers.local_response_norm import LocalResponseNorm


class ContextNet(nn.Module):
    """Convolutions conv1 to conv5 (3,747,200 parameters), Xavier-initialized; it has no classifier.

    Batch norm after conv3 to conv5 has no scale and shift: a learned scale lets a layer silence
    itself (section 3.2).
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(3, 96, 11, stride=4, padding=5),
                relu1=nn.ReLU(inplace=True),
                pool1=_pool(),
                norm1=LocalResponseNorm(96),
                conv2=nn.Conv2d(96, 256, 5, padding=2),
                relu2=nn.ReLU(inplace=True),
                pool2=_pool(),
                norm2=LocalResponseNorm(256),
                conv3=nn.Conv2d(256, 384, 3, padding=1),
                bn3=nn.BatchNorm2d(384, affine=False),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(384, 384, 3, padding=1),
                bn4=nn.BatchNorm2d(384, affine=False),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(384, 256, 3, padding=1),
                bn5=nn.BatchNorm2d(256, affine=False),
                relu5=nn.ReLU(inplace=True),
                pool5=_pool(),
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches or images ``[B, 3, H, W]`` to the average of ``pool5``, ``[B, 256]``."""
        pooled: Tensor = self.avgpool(self.features(x)).flatten(1)
        return pooled


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
