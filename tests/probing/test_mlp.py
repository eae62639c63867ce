from __future__ import annotations

import pytest
import torch

from ssltool.probing import linear, mlp


def rings(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that no line tells apart: inside and outside of a circle."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([1.0, 100.0]) + 5, (x.norm(dim=1) > 1.18).long()


@pytest.mark.slow
@pytest.mark.ci
def test_a_hidden_layer_tells_what_a_line_cannot():
    train, test = rings(600, 0), rings(300, 1)
    assert linear.fit_and_score(*train, *test, 2, 0).accuracy < 70
    assert mlp.fit_and_score(*train, *test, 2, 0, grid=(1e-2,)).accuracy > 93


def test_repeats_and_the_global_generator_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlp, "_MIN_STEPS", 40)
    train, test = rings(60, 0), rings(60, 1)
    state = torch.random.get_rng_state()
    first = mlp.fit_and_score(*train, *test, 2, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert mlp.fit_and_score(*train, *test, 2, 0) == first
