"""Batch norm over several processes."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from ssltool.distributed.collectives import world_size
from ssltool.errors import UsageError

Network = TypeVar("Network", bound=nn.Module)


def synchronize_batch_norm(method: nn.Module, device: torch.device) -> None:
    """Let batch norm use the statistics of all processes' batches; no change with one process.

    Raises:
        UsageError: torch has no such layer for this device, or for batch norm with an activation
            inside, as EfficientNets of timm have it.
    """
    if world_size() == 1:
        return
    if device.type != "cuda":
        raise UsageError(
            "--sync-batchnorm: torch synchronizes batch norm on CUDA only, not on "
            f"{device.type}; omit it, and each process normalizes by its own batch"
        )
    if any(isinstance(part, nn.BatchNorm2d) and hasattr(part, "act") for part in method.modules()):
        raise UsageError(
            "--sync-batchnorm: this network's batch norm holds its activation, which torch would "
            "drop; omit it, and each process normalizes by its own batch"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]


def copy_alone(network: Network) -> Network:
    """A copy of a network whose batch norm does not wait for other processes."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if isinstance(module, nn.SyncBatchNorm):
            # The same parameters and buffers, and nothing else.
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    return copied
