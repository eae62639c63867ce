"""Resizing by two matrix products against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ssltool.ops.resize import as_products, resized


@given(st.integers(1, 12), st.integers(1, 24), st.booleans())
def test_products_give_what_torch_gives(before: int, after: int, last: bool) -> None:
    torch.manual_seed(before * 100 + after)
    form = torch.channels_last if last else torch.contiguous_format
    maps = torch.randn(2, 3, before, before, dtype=torch.float64).to(memory_format=form)
    expected = F.interpolate(maps, (after, after), mode="bilinear", antialias=after < before)
    torch.testing.assert_close(as_products(maps, after), expected)
    torch.testing.assert_close(resized(maps, after), expected)


@pytest.mark.parametrize(("before", "after"), [(4, 7), (7, 4)])
def test_gradients_agree(before: int, after: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, before, before, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, after, after, dtype=torch.float64)
    (ours,) = torch.autograd.grad((as_products(maps, after) * weights).sum(), maps)
    (theirs,) = torch.autograd.grad((resized(maps, after) * weights).sum(), maps)
    torch.testing.assert_close(ours, theirs)


def test_maps_of_the_right_size_are_left_alone() -> None:
    maps = torch.randn(1, 2, 5, 5)
    assert resized(maps, 5) is maps
