"""Memory bank: one unit vector per image, sharded over the processes.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
section 3.1. Each process reads and writes its own shard, and saves and loads the whole bank: a
checkpoint does not depend on the number of processes.

Letters: n vectors in all, D embedding dimension, B images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.distributed.collectives import gather, rank, world_size
from ssltool.ops.per_image_rng import mix

_ANTIPODAL = 1e-6
_BLOCK = 2**14  # vectors sampled from one seed
_TOLERANCE = 0.01  # of a vector's norm: float16 keeps it within 0.001


class MemoryBank(nn.Module):
    """A unit vector for each image, random at first.

    Args:
        count: n.
        width: D.
        dtype: float32 or float16, in which vectors are stored; bfloat16 would lose small updates.
            Updates are computed in float32.
        seed: Of the initial vectors, which are the same for any number of processes.

    Attributes:
        count: n.
        rows: This process's shard ``[n', D]``, of the images ``start`` to ``start + n' - 1``.
        start: Index of its first image.
    """

    def __init__(
        self, count: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> None:
        super().__init__()
        self.count = count
        self.start, stop = _slice(count, rank())
        self._seed = seed
        self.rows: Tensor
        self.register_buffer("rows", torch.empty(stop - self.start, width, dtype=dtype))
        self.randomize()
        self.register_state_dict_post_hook(_join)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_cut)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def randomize(self) -> None:
        """Reset to random unit vectors, uniformly distributed; the same ones each time."""
        width, stop = self.rows.shape[1], self.start + len(self.rows)
        for block in range(self.start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            generator = torch.Generator().manual_seed(mix(self._seed, block))
            vectors = F.normalize(
                torch.randn(min(_BLOCK, self.count - first), width, generator=generator)
            )
            low, high = max(first, self.start), min(first + len(vectors), stop)
            self.rows[low - self.start : high - self.start] = vectors[low - first : high - first]

    def local_index(self, index: Tensor) -> Tensor:
        """Index of the images' vectors in this shard, int64 like ``index``; -1 in other shards."""
        if world_size() == 1:
            return index
        local = index - self.start
        return torch.where((local >= 0) & (local < len(self.rows)), local, -1)

    def local_samples(self, index: Tensor) -> Tensor:
        """`local_index` of sampled images ``[..., m]`` without those of other shards: ``[...,
        m']``, m' >= 1, padded with -1.
        """
        if world_size() == 1:
            return index
        local = self.local_index(index)
        elsewhere = local < 0
        # With several processes this waits for the device: how many samples are ours decides a
        # shape.
        most = max(1, int((~elsewhere).sum(dim=-1).max()))
        order = elsewhere.to(torch.uint8).argsort(dim=-1, stable=True)
        return local.gather(-1, order)[..., :most]

    def similarity(self, features: Tensor, local: Tensor) -> Tensor:
        """Dot product of each feature ``[B, D]`` with the vector at its local index, float ``[B]``;
        0 where the index is -1.
        """
        rows = self.rows[local.clamp_min(0)].to(features.dtype)
        return (features * rows).sum(dim=1) * (local >= 0)

    @torch.no_grad()
    def update(self, index: Tensor, features: Tensor, momentum: float) -> None:
        """Write v <- normalize(momentum * v + (1 - momentum) * f) for the images of one global
        batch.

        Each update starts from the vector as it was before. The last occurrence of a repeated image
        counts. A feature that is not finite is not written; one opposite to its vector, so that
        nothing is left to normalize, replaces it.

        Args:
            index: int64 ``[B]``, the images of all processes.
            features: float ``[B, D]``, unit vectors, of all processes.
            momentum: Weight of the old vector, 0..1: 0 replaces it.
        """
        same = index[:, None] == index[None, :]
        last = (same * torch.arange(1, len(index) + 1, device=index.device)).argmax(dim=1)
        features = features[last].float()  # repeated images write equal values, in any order
        local = self.local_index(index)
        if world_size() > 1:
            held = local >= 0
            local, features = local[held], features[held]
        old = self.rows[local].float()
        mixed = momentum * old + (1 - momentum) * features
        length = mixed.norm(dim=1, keepdim=True)
        new = torch.where(length < _ANTIPODAL, features, mixed / length.clamp_min(_ANTIPODAL))
        finite = features.isfinite().all(dim=1, keepdim=True)
        # A vector that stays must keep its bits.
        self.rows[local] = torch.where(finite, new, old).to(self.rows.dtype)


def _slice(count: int, which: int) -> tuple[int, int]:
    """First and last + 1 of the images of a process's shard."""
    return count * which // world_size(), count * (which + 1) // world_size()


def _join(bank: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Gather the shards of all processes into a state that is saved; a collective call."""
    del metadata
    assert isinstance(bank, MemoryBank)
    if world_size() > 1:
        slices = [_slice(bank.count, which) for which in range(world_size())]
        padded = bank.rows.new_zeros(
            max(stop - start for start, stop in slices), bank.rows.shape[1]
        )
        padded[: len(bank.rows)] = bank.rows
        parts = torch.split(gather(padded), len(padded))
        state[prefix + "rows"] = torch.cat(
            [part[: b - a] for part, (a, b) in zip(parts, slices, strict=True)]
        )


def _cut(bank: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Take this process's shard from a state that is loaded; its vectors must be unit."""
    assert isinstance(bank, MemoryBank)
    rows = state.get(prefix + "rows")
    if rows is None or rows.shape != (bank.count, bank.rows.shape[1]):
        return  # a missing or misshapen tensor is named by load_state_dict itself
    own = rows[bank.start : bank.start + len(bank.rows)]
    parts = torch.split(own, _BLOCK)
    if not all(((part.float().norm(dim=1) - 1).abs() <= _TOLERANCE).all() for part in parts):
        faults: list[str] = rest[-1]
        faults.append(f"{prefix}rows holds vectors whose length is not 1")
    state[prefix + "rows"] = own
