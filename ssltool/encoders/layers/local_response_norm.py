"""`LocalResponseNorm`: torch's local response normalization, several times faster.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NIPS 2012, section 3.3. The sum over neighboring channels is a 1x1 convolution with a banded matrix
of ones, instead of torch's pooling over channels, whose memory access is strided.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LocalResponseNorm(nn.Module):
    """x / (k + alpha / size * sum of x^2 over ``size`` neighboring channels)^0.75.

    It has no parameters and no state.

    Args:
        channels: C.
        size: Channels summed over, odd.
        alpha: Weight of the mean square.
        k: Additive constant.
    """

    def __init__(self, channels: int, size: int = 5, alpha: float = 1e-4, k: float = 1.0) -> None:
        super().__init__()
        self._alpha, self._k = alpha / size, k
        # On the CPU even while the network is built on the meta device: no file holds the band.
        channel = torch.arange(channels, device="cpu")
        near = (channel[:, None] - channel[None, :]).abs() <= size // 2
        self._band: Tensor
        self.register_buffer("_band", near.float()[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps ``[B, C, H, W]``; the dtype stays."""
        if x.dtype == torch.float16:  # its squares overflow
            with torch.autocast(x.device.type, enabled=False):
                return self._normalized(x.float()).to(x.dtype)
        return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        squares = F.conv2d(x * x, self._band.to(x.dtype)).float()
        inverse = (squares * self._alpha + self._k).rsqrt()
        return x * (inverse * inverse.sqrt()).to(x.dtype)
