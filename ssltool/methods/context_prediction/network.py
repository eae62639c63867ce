"""The head of context prediction: patch vectors to relative positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssltool.encoders.layers import full_precision


class Head(nn.Module):
    """The late layers: fc6 on each patch's vector, fc7 to fc9 on two of them (figure 3).

    Batch norm has no scale and shift: a learned scale lets a layer silence itself, and the network
    then stays at the saddle point of uniform predictions (section 3.2).
    """

    def __init__(self, width: int, fc6: int, fc7: int) -> None:
        super().__init__()
        self.fc6 = nn.Sequential(
            nn.Linear(width, fc6), nn.BatchNorm1d(fc6, affine=False), nn.ReLU()
        )
        self.fc7 = nn.Sequential(
            nn.Linear(2 * fc6, fc7), nn.BatchNorm1d(fc7, affine=False), nn.ReLU()
        )
        self.fc8 = nn.Sequential(nn.Linear(fc7, fc7), nn.ReLU())
        self.fc9 = full_precision.Linear(fc7, 8)
        # Small last weights: the first loss is ln 8, the chance level.
        nn.init.normal_(self.fc9.weight, std=0.001)
        nn.init.zeros_(self.fc9.bias)

    def forward(self, vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Classify the position of the second patch of each pair.

        Args:
            vectors: float ``[B, N, D]``, the patches' vectors.
            first: int64 ``[B, M]``, first patch of each pair.
            second: int64 ``[B, M]``, second patch.

        Returns:
            Logits ``[B*M, 8]``, float32 at any precision.
        """
        embedded = self.fc6(vectors.flatten(0, 1)).view(
            *vectors.shape[:2], -1
        )  # [B, N, fc6], each patch once
        images = torch.arange(len(embedded), device=embedded.device)[:, None]
        pairs = torch.cat(
            [embedded[images, first], embedded[images, second]], dim=-1
        )  # [B, M, 2*fc6]
        logits: Tensor = self.fc9(self.fc8(self.fc7(pairs.flatten(0, 1))))
        return logits
