"""The choice of one of two versions equals torch.where."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.ops.select import mirror, select


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 2**31))
def test_it_is_where(which: list[bool], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(which)
    for kind in (torch.uint8, torch.float32):
        one, other = (
            torch.randint(0, 256, (len(which), 3, 4, 5), generator=generator).to(kind)
            for _ in range(2)
        )
        assert torch.equal(
            select(chosen, one, other), torch.where(chosen[:, None, None, None], one, other)
        )
        # One channel for all of them.
        wide = select(chosen, one[:, :1], other)
        assert torch.equal(wide, torch.where(chosen[:, None, None, None], one[:, :1], other))
        assert wide.dtype == kind


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_mirrored_in_either_layout(form: torch.memory_format) -> None:
    images = (
        torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8)
        .view(2, 3, 4, 5)
        .contiguous(memory_format=form)
    )
    found = mirror(images, torch.tensor([True, False]))
    assert torch.equal(found[0], images[0].flip(-1))
    assert torch.equal(found[1], images[1])
