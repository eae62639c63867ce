from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssltool.errors import DataError
from ssltool.probing import convex, linear
from ssltool.probing.splits import selection_splits


def blobs(count, classes, width, seed, spread=1.5):
    """Overlapping clusters whose features are correlated and of very different scales."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=g)
    y = torch.arange(count) % classes
    x = (
        torch.randn(classes, width, generator=g)[y]
        + spread * torch.randn(count, width, generator=g)
    ) @ mix
    return x * torch.logspace(-2, 2, width) + 3, y


def objective(theta, z, y, weight_decay):
    """The objective of rows that are standardized already."""
    rows = convex.Rows(z, y, torch.zeros(z.shape[1]), torch.ones(z.shape[1]))
    return linear.problem(rows, len(theta)).objective(theta, weight_decay)


def theta_of(classifier):
    return torch.cat([classifier.weight, classifier.bias[:, None]], 1).double()


def standardized(x):
    mean, std = convex.moments(x)
    return (x - mean) / std


def test_objective_by_hand():
    # Logits (1, 0) and (-2, 0): losses ln(1 + e^-1) and ln(1 + e^-2); penalty 0.1 / 2 * 1^2.
    theta = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    value, gradient = objective(theta, torch.tensor([[1.0], [-2.0]]), torch.tensor([0, 1]), 0.1)
    assert value == pytest.approx(
        (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2 + 0.05, rel=1e-6
    )
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    expected = [
        [((p - 1) - 2 * q) / 2 + 0.1, ((p - 1) + q) / 2],
        [((1 - p) + 2 * q) / 2, ((1 - p) - q) / 2],
    ]
    assert gradient.numpy() == pytest.approx(np.array(expected), rel=1e-5)


def test_gradient_agrees_with_autograd():
    x, y = blobs(300, 4, 6, seed=0)
    z = standardized(x)
    theta = torch.randn(
        4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z.double() @ theta[:, :-1].T + theta[:, -1], y)
    loss = loss + 0.03 / 2 * theta[:, :-1].square().sum()
    loss.backward()
    value, gradient = objective(theta.detach(), z, y, 0.03)
    assert value == pytest.approx(loss.item(), rel=1e-6)
    assert torch.allclose(gradient, theta.grad, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [1e-3, 1e-1])
@pytest.mark.parametrize(("count", "classes", "width"), [(2000, 7, 20), (60, 3, 100)])
def test_same_optimum_as_scikit_learn(count, classes, width, weight_decay):
    x, y = blobs(count, classes, width, seed=2)
    z = standardized(x)
    reference = LogisticRegression(C=1 / (count * weight_decay), tol=1e-8, max_iter=5000).fit(
        z.double().numpy(), y
    )
    expected = torch.from_numpy(np.column_stack([reference.coef_, reference.intercept_]))
    fitted = linear.fit(x, y, classes, weight_decay, tolerance=1e-6)
    best, _ = objective(expected, z, y, weight_decay)
    value, gradient = objective(theta_of(fitted), z, y, weight_decay)
    assert fitted.converged
    assert value == pytest.approx(best, rel=1e-5)
    assert gradient.norm() < 1e-4
    agreement = (fitted.predict(x).numpy() == reference.predict(z.double().numpy())).mean()
    assert agreement > 0.999


@pytest.mark.parametrize(
    ("limit", "value"),
    [("BLOCK", 7), ("EXACT", 0), ("SAMPLE", 100), ("ROWS_AT_ONCE", 64), ("IN_MEMORY", 0)],
)
def test_limits_of_the_search_do_not_move_the_optimum(monkeypatch, limit, value):
    x, y = blobs(2000, 7, 20, seed=2)
    z, plain = standardized(x), linear.fit(x, y, 7, 1e-2)
    monkeypatch.setattr(convex, limit, value)
    limited = linear.fit(x, y, 7, 1e-2)
    assert plain.converged
    assert limited.converged
    values = [objective(theta_of(classifier), z, y, 1e-2)[0] for classifier in (plain, limited)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_start_changes_the_time_only():
    x, y = blobs(500, 4, 10, seed=3)
    cold = linear.fit(x, y, 4, 1e-2, tolerance=1e-6)
    warm = linear.fit(x, y, 4, 1e-2, tolerance=1e-6, start=theta_of(cold))
    assert warm.iterations < cold.iterations / 2
    assert torch.allclose(warm.weight, cold.weight, atol=1e-3)


def test_same_bytes_twice():
    x, y = blobs(400, 5, 12, seed=4)
    first, second = (
        linear.fit_and_score(x[:300], y[:300], x[300:], y[300:], 5, seed=7) for _ in range(2)
    )
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert torch.equal(first.classifier.bias, second.classifier.bias)
    assert (first.accuracy, first.weight_decay, first.holdout) == (
        second.accuracy,
        second.weight_decay,
        second.holdout,
    )


def test_separable_classes_are_learnt_and_scored_class_by_class():
    x, y = blobs(300, 3, 8, seed=5, spread=0.01)
    test_y = y[200:].clone()
    test_y[test_y == 2] = (
        1  # mislabelled on purpose: class 1 is right for half of its images, class 2 has none
    )
    result = linear.fit_and_score(x[:200], y[:200], x[200:], test_y, 3, seed=0)
    ones = int((y[200:] == 1).sum())
    assert result.per_class == (100.0, pytest.approx(100 * ones / int((test_y == 1).sum())), None)
    assert result.accuracy == pytest.approx(100 * float((y[200:] == test_y).double().mean()))


def test_shuffled_labels_give_chance():
    x, y = blobs(1200, 4, 10, seed=6)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    result = linear.fit_and_score(x[:800], shuffled[:800], x[800:], shuffled[800:], 4, seed=0)
    assert abs(result.accuracy - 25) < 8  # 3.7 standard deviations


def test_units_of_the_features_do_not_matter():
    x, y = blobs(300, 3, 6, seed=7)
    plain, scaled = linear.fit(x, y, 3, 1e-2), linear.fit(x * 1000 - 50, y, 3, 1e-2)
    assert torch.allclose(plain.logits(x), scaled.logits(x * 1000 - 50), atol=1e-2)


def test_constant_features_stay_out_of_it():
    x, y = blobs(200, 3, 5, seed=8)
    padded = torch.cat([x, torch.full((200, 1), 0.1), torch.zeros(200, 1)], 1)
    fitted, expected = linear.fit(padded, y, 3, 1e-2), linear.fit(x, y, 3, 1e-2)
    assert torch.equal(fitted.weight[:, 5:], torch.zeros(3, 2))
    elsewhere = torch.cat([x, torch.full((200, 2), 9.0)], 1)
    assert torch.allclose(fitted.logits(elsewhere), expected.logits(x), atol=1e-3)


def test_class_without_training_images_is_never_predicted():
    x, y = blobs(200, 2, 5, seed=9)
    fitted = linear.fit(x, y * 2, 4, 1e-2)  # classes 0 and 2 of 4
    assert fitted.converged
    assert fitted.logits(x)[:, [1, 3]].isneginf().all()
    assert torch.allclose(fitted.weight[[0, 2]], linear.fit(x, y, 2, 1e-2).weight)


def test_faults_are_named():
    x, y = blobs(20, 2, 3, seed=10)
    with pytest.raises(DataError, match="all 20 labeled images are of one class"):
        linear.fit(x, torch.zeros(20, dtype=torch.int64), 2, 1e-2)
    with pytest.raises(DataError, match="labels from 0 to 1 found, 0 to 0 expected"):
        linear.fit(x, y, 1, 1e-2)
    with pytest.raises(DataError, match="NaN or infinite"):
        linear.fit(x.where(x > x.min(), torch.nan), y, 2, 1e-2)


def test_unfinished_fit_says_so():
    x, y = blobs(300, 4, 10, seed=11)
    assert not linear.fit(x, y, 4, 1e-4, max_iterations=2).converged


def test_moments_of_large_offsets():
    x = torch.tensor([[4096.0, 1.0], [4097.0, 1.0], [4098.0, 1.0]])
    mean, std = convex.moments(x)
    assert mean.tolist() == [4097.0, 1.0]
    assert std.tolist() == [pytest.approx(math.sqrt(2 / 3)), math.inf]


def test_weight_decay_is_chosen_inside_the_grid_or_beyond_its_end():
    # 40 noisy images of 200 dimensions want a strong weight decay: an all too weak grid has to be
    # left.
    x, y = blobs(40, 2, 200, seed=12, spread=4)
    best, table = linear.choose_weight_decay(x, y, (1e-9, 1e-8), seed=0)
    assert table[best] == max(table.values())
    assert best == max(value for value in table if table[value] == table[best])
    assert list(table) == sorted(table)
    assert len(table) <= 2 + linear.EXTENSIONS


@pytest.mark.parametrize(
    ("table", "beyond"),
    [
        ({0.1: 50.0, 1.0: 60.0, 10.0: 55.0}, []),
        ({0.1: 50.0, 1.0: 60.0, 10.0: 70.0}, [100.0]),
        (
            {0.1: 50.0, 1.0: 70.0, 10.0: 70.0},
            [],
        ),  # as good as its neighbor: stronger would gain nothing
        ({0.1: 80.0, 1.0: 70.0, 10.0: 60.0}, [0.01]),
    ],
)
def test_search_continues_beyond_a_better_end(table, beyond):
    assert linear._beyond_the_end(table) == pytest.approx(beyond)


def test_nothing_to_choose_by():
    x, y = torch.eye(3), torch.arange(3)
    assert linear.choose_weight_decay(x, y, (1e-4, 1e-2, 1e-3), seed=0) == (1e-3, {})
    x, y = blobs(30, 3, 4, seed=13)
    best, table = linear.choose_weight_decay(x, y, (0.5,), seed=0)
    assert (best, list(table)) == (0.5, [0.5])


@pytest.mark.parametrize("count", [40, 150])
def test_fewer_images_than_dimensions_have_the_same_optimum_as_scikit_learn(count):
    x, y = blobs(count, 3, 300, seed=14)
    z = standardized(x).double().numpy()
    reference = LogisticRegression(C=1 / (count * 1e-2), tol=1e-8, max_iter=5000).fit(z, y)
    fitted = linear.fit(x, y, 3, 1e-2, tolerance=1e-6)
    assert fitted.converged
    assert torch.allclose(fitted.weight.double(), torch.from_numpy(reference.coef_), atol=2e-4)


@pytest.mark.parametrize("width", [6, 200])  # more and fewer images than dimensions
@pytest.mark.parametrize("block", [50, 4096])
def test_folds_solved_together_have_the_optima_of_each_alone(monkeypatch, width, block):
    monkeypatch.setattr(convex, "ROWS_AT_ONCE", block)
    x = torch.randn(120, width, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long() + (x[:, 2] > 1)
    kept = [torch.arange(120)[torch.arange(120) % 3 != fold] for fold in range(3)]
    mean, std = convex.moments(x)
    rows = convex.Rows(x, y, mean, std)
    together = linear.problem(rows, 3, kept).minimize(0.01, None, 5e-6, 1000)
    assert together.converged
    for part, indices in zip(together.theta.chunk(3), kept, strict=True):
        alone = linear.problem(convex.Rows(x, y, mean, std, indices), 3)
        expected = alone.minimize(0.01, None, 5e-6, 1000)
        assert expected.converged
        torch.testing.assert_close(part, expected.theta, atol=2e-3, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_folds_of_few_images_are_scored_as_by_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    counts = [1, 2, *rng.choice([2, 3, 8], rng.integers(1, 4))]
    y = rng.permutation(np.repeat(range(len(counts)), counts))
    x = rng.normal(size=(len(y), 3 + 20 * (seed % 2))) + y[:, None]
    x[:, 0] = 3.0  # a constant feature
    x = x.astype(np.float32)
    _, table = linear.choose_weight_decay(torch.tensor(x), torch.tensor(y), (1e-3, 1e-2, 1), seed)
    z = (x - x.mean(0, np.float64)) / np.where(np.arange(x.shape[1]), x.std(0, np.float64), 1)
    splits = [(a.numpy(), b.numpy()) for a, b in selection_splits(torch.tensor(y), seed)]
    for decay in (1e-3, 1e-2, 1):
        correct = 0
        for kept, held in splits:
            reference = LogisticRegression(C=1 / (decay * len(kept)), tol=1e-9, max_iter=10_000)
            correct += int((reference.fit(z[kept], y[kept]).predict(z[held]) == y[held]).sum())
        assert table[decay] == pytest.approx(100 * correct / sum(len(b) for _, b in splits))
