"""One process; several are in tests/methods/test_npid.py."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from ssltool.distributed import gather, is_main, rank, world_size


def test_one_process_tells_itself_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_gather_into_tensor", "all_reduce"):
        monkeypatch.setattr(distributed, name, lambda *_: pytest.fail("a collective call in one process"))
    x = torch.ones(3, requires_grad=True)
    assert gather(x) is x
    assert (rank(), world_size(), is_main()) == (0, 1, True)


def test_torchrun_says_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size(), is_main()) == (2, 4, False)
