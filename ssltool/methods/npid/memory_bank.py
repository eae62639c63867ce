"""One remembered unit vector for every image of the data, spread over the processes that train
together.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
section 3.1.

Each process holds one slice of the rows, only ever reads and writes its own rows, and saves and
loads the whole: a checkpoint does not depend on the number of processes. In one process the slice
is the whole bank.

Letters used for shapes: n rows in all, D numbers in a row, B images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.distributed.collectives import gather, rank, world_size
from ssltool.ops.per_image_rng import mix

_ANTIPODAL = 1e-6
_BLOCK = 2**14  # rows drawn from one seed
_UNIT = 0.01  # how far a row's length may be from 1: float16 keeps it within 0.001


class MemoryBank(nn.Module):
    """The rows of the images, random unit vectors at first.

    Args:
        count: n.
        width: D.
        dtype: Storage; float32 or float16. bfloat16 would lose small updates. Updates are computed
            in float32.
        seed: Of the first rows, which are the same for any number of processes.

    Attributes:
        count: n.
        rows: The rows this process owns, ``[n', D]``: those of the images ``start`` to ``start + n'
            - 1``.
        start: Place of the first of them.
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
        """Make all rows random unit vectors, uniformly distributed; the same ones each time."""
        width, stop = self.rows.shape[1], self.start + len(self.rows)
        for block in range(self.start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            generator = torch.Generator().manual_seed(mix(self._seed, block))
            drawn = F.normalize(
                torch.randn(min(_BLOCK, self.count - first), width, generator=generator)
            )
            low, high = max(first, self.start), min(first + len(drawn), stop)
            self.rows[low - self.start : high - self.start] = drawn[low - first : high - first]

    def place(self, index: Tensor) -> Tensor:
        """Where this process holds the rows of the images, int64 like ``index``; -1 for those of
        other processes.
        """
        if world_size() == 1:
            return index
        local = index - self.start
        return torch.where((local >= 0) & (local < len(self.rows)), local, -1)

    def sampled(self, index: Tensor) -> Tensor:
        """`place` of sampled images ``[..., m]`` with those of other processes cut away: ``[...,
        m']``, m' >= 1.

        Where rows of the result are not equally full, -1 fills them up.
        """
        if world_size() == 1:
            return index
        local = self.place(index)
        elsewhere = local < 0
        # With several processes this waits for the device: how many samples are ours decides a
        # shape.
        most = max(1, int((~elsewhere).sum(dim=-1).max()))
        order = elsewhere.to(torch.uint8).argsort(dim=-1, stable=True)
        return local.gather(-1, order)[..., :most]

    def similarity(self, features: Tensor, place: Tensor) -> Tensor:
        """Product of each feature ``[B, D]`` with the row at its place, float ``[B]``; 0 where the
        place is -1.
        """
        rows = self.rows[place.clamp_min(0)].to(features.dtype)
        return (features * rows).sum(dim=1) * (place >= 0)

    @torch.no_grad()
    def update(self, index: Tensor, features: Tensor, momentum: float) -> None:
        """Write v <- normalize(momentum * v + (1 - momentum) * f) for the images of one global
        batch.

        Each update starts from the row as it was before. Of an image that occurs twice the last
        occurrence counts. A feature that is not finite is not written; one opposite to its row, so
        that nothing is left to normalize, replaces it.

        Args:
            index: int64 ``[B]``, the images of all processes.
            features: float ``[B, D]``, unit vectors, of all processes.
            momentum: Weight of the old row, 0..1: 0 replaces it.
        """
        same = index[:, None] == index[None, :]
        last = (same * torch.arange(1, len(index) + 1, device=index.device)).argmax(dim=1)
        features = features[
            last
        ].float()  # equal images write equal values, in whatever order they are written
        place = self.place(index)
        if world_size() > 1:
            mine = place >= 0
            place, features = place[mine], features[mine]
        old = self.rows[place].float()
        mixed = momentum * old + (1 - momentum) * features
        length = mixed.norm(dim=1, keepdim=True)
        new = torch.where(length < _ANTIPODAL, features, mixed / length.clamp_min(_ANTIPODAL))
        finite = features.isfinite().all(dim=1, keepdim=True)
        # A row that stays must keep its bits.
        self.rows[place] = torch.where(finite, new, old).to(self.rows.dtype)


def _slice(count: int, which: int) -> tuple[int, int]:
    """First and last + 1 of the rows that a process owns."""
    return count * which // world_size(), count * (which + 1) // world_size()


def _join(bank: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Put the rows of all processes into a state that is saved; all of them must ask for it at
    once.
    """
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
    """Take this process's rows from a state that is loaded, and report rows that are not unit
    vectors.
    """
    assert isinstance(bank, MemoryBank)
    rows = state.get(prefix + "rows")
    if rows is None or rows.shape != (bank.count, bank.rows.shape[1]):
        return  # a missing or misshapen tensor is named by load_state_dict itself
    own = rows[bank.start : bank.start + len(bank.rows)]
    if not all(
        ((part.float().norm(dim=1) - 1).abs() <= _UNIT).all() for part in torch.split(own, _BLOCK)
    ):
        faults: list[str] = rest[-1]
        faults.append(f"{prefix}rows holds vectors whose length is not 1")
    state[prefix + "rows"] = own
