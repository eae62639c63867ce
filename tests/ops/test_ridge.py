from __future__ import annotations

import torch
from sklearn.linear_model import Ridge

from ssltool.ops import ridge as module
from ssltool.ops.ridge import ridge


def data(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7) + 3
    weight = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    return x, x @ weight + 5 + noise * torch.randn(80, 2, generator=generator, dtype=torch.float64)


def test_a_linear_map_is_found() -> None:
    x, y = data(noise=0.0)
    assert torch.allclose(ridge(x[:60], y[:60], x[60:]), y[60:], atol=0.01)


def test_predictions_are_those_of_a_reference_at_the_penalty_of_least_error() -> None:
    x, y = data(noise=20.0)
    mean, std = x[:60].mean(dim=0), x[:60].std(dim=0, correction=0)
    z = (x - mean) / std
    errors = {}
    for penalty in module._PENALTIES:
        fitted = Ridge(alpha=60 * penalty).fit(z[:60].numpy(), y[:60].numpy())
        rest = y[:60] - torch.from_numpy(fitted.predict(z[:60].numpy()))
        gram = z[:60].T @ z[:60]
        hat = torch.linalg.solve(gram + 60 * penalty * torch.eye(6, dtype=torch.float64), gram)
        errors[penalty] = float(rest.square().sum()) / (60 - 1 - float(hat.trace())) ** 2
    best = min(errors, key=lambda penalty: errors[penalty])
    reference = Ridge(alpha=60 * best).fit(z[:60].numpy(), y[:60].numpy()).predict(z[60:].numpy())
    assert torch.allclose(ridge(x[:60], y[:60], x[60:]), torch.from_numpy(reference))


def test_features_that_say_nothing_predict_about_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 20, generator=generator), torch.randn(300, 1, generator=generator)
    constant = torch.cat([x, torch.ones(300, 1)], dim=1)
    found = ridge(constant[:200], y[:200], constant[200:])
    assert (found - y[:200].mean()).abs().mean() < 0.2
