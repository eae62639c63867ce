"""The linear protocol of CPC v2: batch norm without scale, 1x1 convolution, mean of the logits.

Hénaff et al. 2020, appendix: the frozen vectors of the grid of patches pass a batch norm without
scale and offset and a 1x1 convolution to the classes; the logits are averaged over the grid. Both
are linear, so the mean logits are those of the mean vector, normalized by the statistics of single
patches:

    mean of (W (z - mu) / sigma + b)  =  W (mean of z - mu) / sigma + b

and of each image the mean of its vectors and of their squares are enough. It differs from a probe
of the mean vector in sigma, which is that of patches, and in how it is trained: Adam, on batches.
The paper's length of training is not known to us.

Shapes: N images, D dimensions of a vector, C classes. Moments are ``[N, 2 * D]``: the means over
the patches of the vectors, then of their squares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LR = 5e-4
_BATCH = 512
_EPOCHS = 50
_MIN_STEPS = 3000  # few images are seen more often
_EPS = 1e-5


class PatchLinear(nn.Module):
    """Mean logits over the grid, from moments; weights start at zero.

    Args:
        dim: D.
        classes: C.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Linear(dim, classes)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, moments: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
        """Logits ``[N, C]`` of moments, normalized by a mean and a deviation ``[D]``."""
        mean, deviation = statistics
        vectors = moments[:, : len(mean)]
        logits: Tensor = self.conv((vectors - mean) / deviation)
        return logits


def batch_statistics(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[D]`` of all patches of some images, as batch norm computes them."""
    mean, square = moments.double().mean(dim=0).chunk(2)
    deviation = ((square - mean.square()).clamp_min(0) + _EPS).sqrt()
    return mean.to(moments.dtype), deviation.to(moments.dtype)


def fit_and_score(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, seed: int
) -> float:
    """Train on the training images, and score on the test images.

    In training a batch is normalized by its own statistics, at the end by those of all training
    images. The same inputs give the same value on a CPU. torch's global generator is left as it
    was.

    Args:
        train_x: Moments of the training images.
        train_y: int64 ``[N]``, classes 0 to ``classes - 1``.
        test_x: Moments of the test images.
        test_y: Likewise.
        classes: C.
        seed: Of the order of the images.

    Returns:
        Top-1 accuracy, percent.
    """
    network = fit(train_x, train_y, classes, seed)
    with torch.no_grad():
        predicted = network(test_x, batch_statistics(train_x)).argmax(dim=1)
    return 100 * float((predicted == test_y).double().mean())


def fit(x: Tensor, y: Tensor, classes: int, seed: int) -> PatchLinear:
    """Train on moments and labels; see `fit_and_score`."""
    network = PatchLinear(x.shape[1] // 2, classes).to(x.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LR)
    generator = torch.Generator().manual_seed(seed)
    size = min(_BATCH, len(x))
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(max(_MIN_STEPS, _EPOCHS * len(x) // size)):
        if len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(len(x), generator=generator)])
        rows, waiting = waiting[:size].to(x.device), waiting[size:]
        batch = x[rows]
        loss = F.cross_entropy(network(batch, batch_statistics(batch)), y[rows])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    return network
