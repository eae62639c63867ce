"""Processes meet anew after each restart, whatever is left in the store from before."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch import distributed

from ssltool.device import choose_device
from ssltool.distributed.process_group import rendezvous_ranks
from ssltool.errors import ProcessLost, UsageError


def together(
    server: distributed.TCPStore, world: int, counts: list[int]
) -> tuple[set[str], set[int]]:
    """All processes meet, each coming when it will; what each left for the others, and the restarts
    they know of.
    """

    def process(rank: int) -> tuple[str, int]:
        store = distributed.TCPStore("localhost", server.port, is_master=False)
        time.sleep(random.Random(f"{counts} {rank}").random() / 4)
        part, restarts = rendezvous_ranks(store, rank, world, counts[rank], timedelta(seconds=30))
        part.set(f"address/{rank}", f"{counts} {rank}")
        found = [part.get(f"address/{other}").decode() for other in range(world)]
        return " ".join(found), restarts

    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(process, range(world)))
    return {text for text, _ in found}, {restarts for _, restarts in found}


@pytest.fixture
def store() -> distributed.TCPStore:
    """What torchrun's first agent keeps."""
    return distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


@pytest.mark.parametrize("world", [2, 5])
def test_who_was_here_before_is_not_taken_for_who_is_here_now(
    store: distributed.TCPStore, world: int
) -> None:
    for time_of in range(
        4
    ):  # only the agent of process 1 counts: its process failed, the others were merely stopped
        counts = [time_of if rank == 1 else 0 for rank in range(world)]
        expected = " ".join(f"{counts} {rank}" for rank in range(world))
        assert together(store, world, counts) == ({expected}, {time_of})


def test_restarts_are_known_in_a_new_store_too(store: distributed.TCPStore) -> None:
    """As when the host that keeps the store was the one to fail."""
    assert together(store, 2, [0, 2])[1] == {2}


def test_one_that_waits_in_vain_says_so(store: distributed.TCPStore) -> None:
    together(store, 2, [0, 0])
    with pytest.raises(ProcessLost, match="did not join within 1 s"):
        rendezvous_ranks(
            store, 0, 2, 1, timedelta(seconds=1)
        )  # the other is in the store, but from before


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"--device {name}: torch finds none here"):
        choose_device(name)
