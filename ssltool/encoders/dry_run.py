"""Running a module without side effects: in evaluation mode, or on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode and restore the mode of each of its parts afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@torch.no_grad()
def run_on_meta(module: nn.Module, x: Tensor) -> Tensor:
    """Output of ``module`` in evaluation mode for a tensor on the meta device.

    Shapes are propagated and checked as in a real forward pass; nothing is computed and the
    parameters are not touched.
    """
    state = {
        key: tensor.to("meta")
        for key, tensor in chain(module.named_parameters(), module.named_buffers())
    }
    with eval_mode(module):
        y: Tensor = functional_call(module, state, (x,))
    return y
