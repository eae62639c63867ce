"""`MovingAverage`: Polyak averaging of an encoder's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.projection import Projection


class MovingAverage:
    """Exponential moving average of an encoder's parameters, and of its projection's if it has one,
    over the steps of a run.

    After step t (from 0) it is d times what it was plus 1 - d times the new weights, with
    d = min(decay, (1 + t) / (10 + t)): the average of a short run, or of the first steps of a long
    one, is over the latest nine tenths of them and not over its random initial weights.

    Args:
        encoder: The weights it starts from; on the device, in the memory format of training.
        projection: Of the encoder, likewise.
        decay: The largest d, between 0 and 1.

    Attributes:
        encoder: The average, in evaluation mode; its buffers are those of the latest step.
        projection: Likewise; None if there is none.
        state: Both, for checkpoints.
    """

    def __init__(self, encoder: Encoder, projection: Projection | None, decay: float) -> None:
        self._decay = decay
        self.encoder, self.projection = copy.deepcopy((encoder, projection))
        self.state = _together(self.encoder, self.projection).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, encoder: Encoder, projection: Projection | None, step: int) -> None:
        """Take in the weights after a step.

        Args:
            encoder: As it is now.
            projection: Likewise.
            step: Steps taken before, those that a loss scaler skipped not counted.
        """
        decay, source = min(self._decay, (1 + step) / (10 + step)), _together(encoder, projection)
        kept, newest = list(self.state.parameters()), list(source.parameters())
        get_ema_multi_avg_fn(decay)(kept, newest, step)  # type: ignore[no-untyped-call]
        for old, new in zip(self.state.buffers(), source.buffers(), strict=True):
            old.copy_(new)


def _together(encoder: Encoder, projection: Projection | None) -> nn.ModuleDict:
    parts: dict[str, nn.Module] = {"encoder": encoder}
    if projection is not None:
        parts["projection"] = projection
    return nn.ModuleDict(parts)
