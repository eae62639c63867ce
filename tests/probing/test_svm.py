from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from ssltool.errors import DataError
from ssltool.probing import convex, svm


def blobs(count, classes, width, seed, spread=1.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    x = torch.randn(classes, width, generator=g)[y] + spread * torch.randn(
        count, width, generator=g
    )
    return x * torch.logspace(-1, 1, width) + 2, y


@pytest.mark.parametrize("weight_decay", [1e-3, 1e-1])
@pytest.mark.parametrize("positive", [1.0, 2.0])
def test_same_classifiers_as_scikit_learn(weight_decay, positive):
    x, y = blobs(1500, 4, 20, seed=0)
    mean, std = convex.moments(x)
    z = ((x - mean) / std).double().numpy()
    fitted = svm.fit(x, svm.targets_of(y, 4), weight_decay, positive=positive, tolerance=2e-6)
    assert fitted.converged
    for c in range(4):
        own = np.where(y.numpy() == c, 1, -1)
        reference = LinearSVC(
            C=1 / (len(x) * weight_decay),
            dual=False,
            tol=1e-9,
            max_iter=20_000,
            class_weight={1: positive, -1: 1},
            intercept_scaling=100,  # the larger, the freer is the bias
        ).fit(z, own)
        expected = reference.decision_function(z)
        scores = fitted.scores(x)[:, c].numpy()
        assert np.abs(scores - expected).max() < 2e-3
        assert ((scores > 0) == (expected > 0)).mean() > 0.999


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 5)), min_size=1, max_size=40))
def test_average_precision_is_scikit_learns_on_the_images_that_count(rows):
    truth, scores = (
        torch.tensor([row[0] for row in rows]),
        torch.tensor([float(row[1]) for row in rows]),
    )
    fitted = svm.average_precisions(scores[:, None], truth[:, None])[0]
    kept = truth != 0
    if not (truth == 1).any():
        assert fitted is None
    else:
        expected = average_precision_score((truth[kept] == 1).numpy(), scores[kept].numpy())
        assert fitted == pytest.approx(100 * expected)


def test_average_precision_by_hand():
    # Ranks 1 and 3 of four: (1/1 + 2/3) / 2.
    scores, truth = torch.tensor([[0.9], [0.8], [0.7], [0.1]]), torch.tensor([[1], [-1], [1], [-1]])
    assert svm.average_precisions(scores, truth) == [pytest.approx(100 * (1 + 2 / 3) / 2)]


def test_images_of_several_classes_and_images_left_out():
    x, y = blobs(600, 3, 10, seed=1, spread=0.5)
    targets = svm.targets_of(y, 3)
    targets[:, 2] = torch.where(y < 2, 1.0, -1.0)  # the third class is "one of the first two"
    targets[::7, 0] = 0
    result = svm.fit_and_score(x[:400], targets[:400], x[400:], targets[400:], seed=0)
    assert result.mean_ap > 95
    assert len(result.weight_decays) == 3
    # What is left out has no say: whatever its features are, the first class's machine is the same.
    kept = targets[:400, 0] != 0
    alone = svm.fit(x[:400][kept], targets[:400][kept], 0.1)
    moved = x[:400].clone()
    both = svm.fit(moved, targets[:400], 0.1)
    z = x[400:]
    assert (
        alone.scores(z)[:, 0] - both.scores(z)[:, 0]
    ).abs().max() < 0.2  # only the standardization differs


def test_each_class_gets_its_own_weight_decay():
    x, y = blobs(90, 3, 40, seed=2, spread=3)
    decays, held_out = svm.choose_weight_decays(x, svm.targets_of(y, 3), svm.GRID, 0, 2.0)
    assert decays.shape == (3,)
    assert held_out is not None
    assert 0 < held_out <= 100
    assert set(decays.tolist()) <= set(svm.GRID)
    separate = svm.fit(x, svm.targets_of(y, 3), decays, tolerance=1e-7)
    for c in range(3):
        alone = svm.fit(x, svm.targets_of(y, 3), float(decays[c]), tolerance=1e-7)
        assert torch.allclose(separate.weight[c], alone.weight[c], atol=1e-4)


def test_no_class_to_learn():
    x = torch.randn(6, 3)
    with pytest.raises(DataError, match="both images in it"):
        svm.fit_and_score(x, torch.ones(6, 2), x, torch.ones(6, 2), seed=0)


def test_the_bootstrap_error_is_that_of_many_test_sets():
    x, y = blobs(900, 3, 4, seed=5, spread=2)
    train, rest = (x[:300], svm.targets_of(y[:300], 3)), torch.arange(300, 900).view(6, 100)
    results = [svm.fit_and_score(*train, x[r], svm.targets_of(y[r], 3), 0) for r in rest]
    measured = torch.tensor([result.mean_ap for result in results]).std()
    estimated = sum(result.standard_error for result in results) / len(results)
    assert measured / 2.5 < estimated < measured * 2.5
