"""Small constant tensors, copied to each device once: a copy per step would synchronize a GPU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

Numbers = tuple["Numbers | float", ...]


@cache
def cached_tensor(
    values: Numbers, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """The tensor of nested tuples of numbers; it is shared, so nobody may write to it, nor need its
    gradient.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
