"""Who we are among several processes, and what they tell each other. In one process each function does nothing."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, distributed


def rank() -> int:
    """Index of this process, 0 to ``world_size() - 1``; torchrun sets it, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the one process that prints and writes files."""
    return rank() == 0


def gather(x: Tensor) -> Tensor:
    """Join the tensors of all processes along the first dimension, in the order of their ranks.

    Gradients flow back as if the losses of all processes were added up, so that each process's part gets what every
    other process made of it; averaging the gradients of parameters then gives that of the mean loss.

    Args:
        x: ``[b, ...]``, of the same shape on every rank.

    Returns:
        ``[world_size * b, ...]``; in one process ``x`` itself.
    """
    if world_size() == 1:
        return x
    joined: Tensor = _Gather.apply(x)
    return joined


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients of all ranks and keeps this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        joined = x.new_empty(world_size() * len(x), *x.shape[1:])
        distributed.all_gather_into_tensor(joined, x.contiguous())
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        return summed[rank() * ctx.rows : (rank() + 1) * ctx.rows]
