"""Local response normalization, as torch's, several times faster.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NIPS 2012, section 3.3. The sum over neighboring channels is a 1x1 convolution with a band of ones,
which matrix units compute, instead of a pooling over channels, which walks through memory against
its grain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LocalResponseNorm(nn.Module):
    """x / (k + alpha / size * sum of x^2 over ``size`` channels around)^0.75; it has no parameters
    and no state.

    Args:
        channels: C.
        size: Channels summed over, odd.
        alpha: Weight of their mean square.
        k: Added to it.
    """

    def __init__(self, channels: int, size: int = 5, alpha: float = 1e-4, k: float = 1.0) -> None:
        super().__init__()
        self._alpha, self._k = alpha / size, k
        # No file holds these values, so that a network without values, on the meta device, has them
        # too.
        place = torch.arange(channels, device="cpu")
        near = (place[:, None] - place[None, :]).abs() <= size // 2
        self._band: Tensor
        self.register_buffer("_band", near.float()[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps ``[B, C, H, W]``; of the same dtype."""
        if x.dtype == torch.float16:  # whose squares overflow
            with torch.autocast(x.device.type, enabled=False):
                return self._normalized(x.float()).to(x.dtype)
        return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        squares = F.conv2d(x * x, self._band.to(x.dtype)).float()
        inverse = (squares * self._alpha + self._k).rsqrt()
        return x * (inverse * inverse.sqrt()).to(x.dtype)
