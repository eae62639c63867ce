"""Ranks and collective operations; each does nothing in a single process.

All processes must make the same calls in the same order. Python values are exchanged as JSON on the
host, so that no GPU waits for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
# torch renames them; the old names warn where the new ones exist.
_all_gather = getattr(distributed, "all_gather_single", distributed.all_gather_into_tensor)
_reduce_scatter = getattr(distributed, "reduce_scatter_single", distributed.reduce_scatter_tensor)


def rank() -> int:
    """Index of this process, 0 to ``world_size() - 1``; torchrun sets it, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Index of this process among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes on this machine that train together."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def launched() -> bool:
    """True in a process that torchrun, or our own ``--devices``, started."""
    return "WORLD_SIZE" in os.environ


def is_main() -> bool:
    """True in the one process that prints and writes files."""
    return rank() == 0


def gather(x: Tensor) -> Tensor:
    """Join the tensors of all processes along the first dimension, in the order of their ranks.

    Gradients flow back as if the losses of all processes were added up, so that each process's part
    gets what every other process made of it; averaging the gradients of parameters then gives that
    of the mean loss.

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
        _all_gather(joined, x.contiguous())
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(ctx.rows, *gradient.shape[1:])
        _reduce_scatter(own, gradient.contiguous())
        return own


def from_main(make: Callable[[], T]) -> T:
    """Let the first process make a value of JSON kinds, and give it to all."""
    if world_size() == 1:
        return make()
    text = json.dumps(make()).encode() if is_main() else b""
    size = torch.tensor(len(text))
    distributed.broadcast(size, src=0)
    data = torch.frombuffer(bytearray(text.ljust(int(size))), dtype=torch.uint8)
    distributed.broadcast(data, src=0)
    value: T = json.loads(data.numpy().tobytes())
    return value


def from_all(value: T) -> list[T]:
    """The values of JSON kinds of all processes, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    text = json.dumps(value).encode()
    sizes = gather(torch.tensor([len(text)])).tolist()
    padded = torch.frombuffer(bytearray(text.ljust(max(sizes))), dtype=torch.uint8)
    return [json.loads(part.numpy().tobytes()) for part in torch.split(gather(padded), max(sizes))]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(all_reduce_sum(torch.tensor(int(flag))) > 0)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient; in one process ``x``, detached."""
    if world_size() == 1:
        return x.detach()
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(summed)
    return summed


def globally_weighted_mean(mean: Tensor, weight: Tensor) -> Tensor:
    """Scale a process's weighted mean so that the plain mean over all processes is the weighted
    mean of everything.

    Args:
        mean: Scalar, averaged by this process.
        weight: Scalar, the weights it divided by; may be 0 in some processes, then so must be the
            mean.
    """
    if world_size() == 1:
        return mean
    weight = weight.detach().to(mean.dtype)
    return (
        mean
        * weight
        * world_size()
        / all_reduce_sum(weight).clamp_min(torch.finfo(mean.dtype).tiny)
    )


@torch.no_grad()
def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if world_size() == 1:
        return
    for tensor in tensors:
        copy = tensor.clone(memory_format=torch.contiguous_format)
        # As bytes: neither gloo nor NCCL has all types, such as int16.
        distributed.broadcast(copy.view(-1).view(torch.uint8), src=0)
        tensor.copy_(copy)
