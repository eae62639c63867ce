"""`MovingAverage`: Polyak averaging of an encoder's weights."""

from __future__ import annotations

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssltool.encoders.encoder import Encoder


class MovingAverage:
    """Exponential moving average of an encoder's parameters over the steps of a run.

    After step t (from 0) it is d times what it was plus 1 - d times the encoder, with
    d = min(decay, (1 + t) / (10 + t)): the average of a short run, or of the first steps of a long
    one, is over the latest nine tenths of them and not over its random initial weights.

    Args:
        encoder: The weights it starts from; on the device, in the memory format of training.
        decay: The largest d, between 0 and 1.

    Attributes:
        encoder: The average, in evaluation mode; its buffers are those of the latest step.
    """

    def __init__(self, encoder: Encoder, decay: float) -> None:
        self._decay = decay
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, encoder: Encoder, step: int) -> None:
        """Take in the encoder after a step.

        Args:
            encoder: As it is now.
            step: Steps taken before, those that a loss scaler skipped not counted.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        kept, newest = list(self.encoder.parameters()), list(encoder.parameters())
        get_ema_multi_avg_fn(decay)(kept, newest, step)  # type: ignore[no-untyped-call]
        for old, new in zip(self.encoder.buffers(), encoder.buffers(), strict=True):
            old.copy_(new)
