"""Context network of CPC v2: masked convolutions over the rows above, and linear predictions.

Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding", ICML 2020,
section 2 and the appendix. Rows are counted in the direction of prediction;
`ssltool.ops.grids.orient` turns a grid so that this is down.

Letters: B images, C dimension of a patch vector, G patches along a side, T dimension of queries and
targets.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.layers import full_precision


class ContextBlock(nn.Module):
    """1x1 to ``hidden``, 1x3, 2x1 over the row above and the own one, 1x1 back, added to the input.

    Reach: one row up, one column to each side.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.across = nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1))
        self.down = nn.Conv2d(hidden, hidden, (2, 1))
        self.expand = nn.Conv2d(hidden, width, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``[B, C, G, G]`` to ``[B, C, G, G]``."""
        h = self.across(F.relu(self.reduce(z)))
        # A row of zeros on top shifts the rows down by one; at the bottom it would let row i see
        # row i + 1.
        h = F.relu(self.down(F.pad(h, (0, 0, 1, 0))))
        added: Tensor = z + self.expand(h)
        return added


class ContextNetwork(nn.Module):
    """Residual blocks and a ReLU: ``c[i, j]`` depends on ``z[u, v]`` with u <= i only, through no
    norm of any kind.

    n blocks reach n rows up and n columns to each side; the paper's five see all rows above on a
    7x7 grid, except in its corners.

    Args:
        width: C.
        hidden: Channels inside the blocks (paper 256).
        blocks: How many.
    """

    def __init__(self, width: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[ContextBlock(width, hidden) for _ in range(blocks)])

    def forward(self, z: Tensor) -> Tensor:
        """Map patch vectors ``[B, C, G, G]`` to contexts ``[B, C, G, G]``."""
        return F.relu(self.blocks(z))


class Predictor(nn.Module):
    """Context network, targets and one linear prediction per offset, for one direction.

    Args:
        width: C.
        target: T.
        hidden: Channels inside the context network.
        blocks: Blocks of the context network.
        offsets: Rows between a context and what is predicted from it, each below G.
    """

    def __init__(
        self, width: int, target: int, hidden: int, blocks: int, offsets: Sequence[int]
    ) -> None:
        super().__init__()
        self.context = ContextNetwork(width, hidden, blocks)
        self.target = full_precision.Linear(width, target)
        self.predict = nn.ModuleDict(
            {str(k): full_precision.Linear(width, target) for k in offsets}
        )
        for head in (self.target, *self.predict.values()):
            assert isinstance(head, nn.Linear)
            # LeCun's rule keeps the size of the vectors; torch's default shrinks each by sqrt(3),
            # their products by 3.
            nn.init.normal_(head.weight, std=width**-0.5)
            nn.init.zeros_(head.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Targets and predictions of an oriented grid.

        Args:
            z: ``[B, C, G, G]``.

        Returns:
            Targets ``[B, G, G, T]``, and by offset k the predictions ``[B, G-k, G, T]``: that of
            row i is to match the target of row i + k. float32 at any precision.
        """
        contexts = self.context(z).permute(0, 2, 3, 1)
        rows = z.shape[2]
        predictions = {
            int(k): head(contexts[:, : rows - int(k)]) for k, head in self.predict.items()
        }
        return self.target(z.permute(0, 2, 3, 1)), predictions
