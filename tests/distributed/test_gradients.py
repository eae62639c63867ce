"""When gradients are sent. That the averages are right in several processes is in test_ranks.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from ssltool.distributed import gradients
from ssltool.distributed.gradients import GradientReducer

LAYERS, PASSES = 6, 3


class Sent:
    """Calls of all_reduce in place of processes: every process has the same gradients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: int = 2) -> None:
        self.sizes: list[int] = []
        monkeypatch.setenv("WORLD_SIZE", str(world))
        monkeypatch.setattr(distributed, "all_reduce", self.all_reduce)
        self.world = world

    def all_reduce(self, x: Tensor, async_op: bool = False) -> Any:
        self.sizes.append(len(x))
        x.mul_(self.world)
        return self

    def wait(self) -> None:
        """The sum is there."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(LAYERS)))


def test_buckets_are_sent_while_the_backward_pass_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, model = Sent(monkeypatch), network()
    x = torch.randn(4, 8, requires_grad=True)
    x.register_hook(lambda _: sent.sizes.append(-1))  # the end of the pass
    with GradientReducer(model.parameters(), overlap=True, bucket_bytes=2 * 72 * 4) as reducer:
        reducer.last_pass()
        model(x).sum().backward()
        assert len(sent.sizes) == 4  # all of it was sent
        assert sent.sizes.index(-1) >= 2
        reducer.average()
    assert [size for size in sent.sizes if size > 0] == [2 * 72 + 4] * 3


def test_only_the_last_of_accumulated_passes_communicates(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, model = Sent(monkeypatch), network()
    x = torch.randn(4, 8)
    with GradientReducer(model.parameters(), overlap=True, bucket_bytes=300) as reducer:
        for _ in range(2):  # two steps
            model.zero_grad()
            sent.sizes.clear()
            for number in range(PASSES):
                assert not sent.sizes
                if number == PASSES - 1:
                    reducer.last_pass()
                model(x).sum().backward()
            reducer.average()
            assert len(sent.sizes) == LAYERS
            once = torch.autograd.grad(model(x).sum(), list(model.parameters()))
            for parameter, expected in zip(model.parameters(), once, strict=True):
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad, PASSES * expected)


def test_nothing_listens_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, model = Sent(monkeypatch), network()
    with GradientReducer(model.parameters(), overlap=True) as reducer:
        reducer.last_pass()
    model(torch.randn(4, 8)).sum().backward()
    assert not sent.sizes


def test_gradients_have_the_memory_format_of_their_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Sent(monkeypatch)
    model = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    expected = torch.autograd.grad(model(torch.ones(1, 3, 4, 4)).square().sum(), model.weight)[0]
    model(torch.ones(1, 3, 4, 4)).square().sum().backward()
    GradientReducer(model.parameters(), overlap=False).average()
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, expected)
    assert model.weight.grad.stride() == model.weight.stride()


def test_groups_never_depend_on_the_gradients() -> None:
    parameters = [torch.zeros(size) for size in (100, 1, 700, 100, 100, 100)]
    groups = [[len(p) for p in group] for group in gradients._grouped(parameters, 1000)]
    assert groups == [[100, 1], [700], [100, 100], [100]]
