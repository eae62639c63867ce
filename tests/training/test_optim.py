from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssltool.training.optim import LARS, build_optimizer


def test_lars_moves_a_matrix_by_hand() -> None:
    """|w| = 5, g = (0.6, 0.8), |g| = 1, decay 0.1: ratio = 0.01 * 5 / (1 + 0.5); update = g + 0.1 w
    = (0.9, 1.2).
    """
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = LARS([weight], lr=2.0, momentum=0.5, weight_decay=0.1, trust=0.01)
    for expected in ([[2.94, 3.92]],):
        weight.grad = torch.tensor([[0.6, 0.8]])
        optimizer.step()
        assert torch.allclose(weight, torch.tensor(expected))
    # second step: |w| = 4.9, ratio = 0.049 / 1.49, update = (0.894, 1.192), velocity 0.5 (0.06,
    # 0.08) + 2 ratio update
    weight.grad = torch.tensor([[0.6, 0.8]])
    optimizer.step()
    ratio = 0.049 / 1.49
    expected = torch.tensor([[2.94 - 0.03 - 2 * ratio * 0.894, 3.92 - 0.04 - 2 * ratio * 1.192]])
    assert torch.allclose(weight, expected)


def test_lars_moves_a_vector_as_sgd_does() -> None:
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    a, b = LARS([ours], lr=0.1, momentum=0.9), torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for _ in range(3):
        ours.grad, theirs.grad = torch.arange(3.0), torch.arange(3.0)
        a.step()
        b.step()
    assert torch.allclose(ours, theirs)


def test_lars_leaves_a_weight_without_slope_alone() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    LARS([weight], lr=1.0).step()
    assert torch.isfinite(weight).all()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_only_matrices_and_kernels_decay(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer(module, name, lr=0.1, weight_decay=0.5, momentum=0.9)
    by_decay = {
        group["weight_decay"]: {p.dim() for p in group["params"]}
        for group in optimizer.param_groups
    }
    assert by_decay == {0.5: {2, 4}, 0.0: {1}}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_a_submodule_can_have_its_own_rate(name: str) -> None:
    module = nn.ModuleDict({"main": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    optimizer = build_optimizer(
        module, name, lr=0.1, weight_decay=0.5, momentum=0.9, lr_scales={"other": 0.25}
    )
    found = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert {found[id(p)] for p in module["main"].parameters()} == {1.0}
    assert {found[id(p)] for p in module["other"].parameters()} == {0.25}
    assert len(optimizer.param_groups) == 4


def test_momentum_is_the_first_beta_of_adamw() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), "adamw", lr=0.1, weight_decay=0, momentum=0.5)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_all_parameters_decay_on_request(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer(
        module, name, lr=0.1, weight_decay=0.5, momentum=0.9, decay_all=True
    )
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_decay_of_all_parameters_is_torchs_sgd_over_all_parameters() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    optimizers = (
        build_optimizer(ours, "sgd", lr=0.1, weight_decay=0.3, momentum=0.9, decay_all=True),
        torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=0.3),
    )
    for step in range(3):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
