from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.errors import DataError
from ssltool.probing.knn import knn_accuracy, nearest, vote


def brute_force(train_x, train_y, query, k, classes, temperature):
    """Section 3.4 read aloud, one query at a time in float64."""
    similarities = [
        float(row @ query) / max(np.linalg.norm(row) * np.linalg.norm(query), 1e-12)
        for row in train_x.astype(np.float64)
    ]
    votes = np.zeros(classes)
    for i in sorted(range(len(train_x)), key=lambda i: (-similarities[i], i))[:k]:
        votes[train_y[i]] += np.exp(similarities[i] / temperature)
    return int(votes.argmax())


def clusters(count, classes, width, seed):
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, width, generator=g)
    y = torch.randint(classes, (count,), generator=g)
    return centers[y] + 1.5 * torch.randn(count, width, generator=g), y


@pytest.mark.parametrize("k", [1, 5, 20, 200])
def test_same_predictions_as_brute_force(k):
    x, y = clusters(400, 6, 8, seed=1)
    train_x, train_y, test_x = x[:300], y[:300], x[300:]
    similarities, indices = nearest(test_x, train_x, k)
    expected = [
        brute_force(train_x.numpy(), train_y.numpy(), q, k, 6, 0.07)
        for q in test_x.numpy().astype(np.float64)
    ]
    assert vote(similarities, train_y[indices], 6, 0.07).tolist() == expected


def test_accuracy_by_hand():
    # Along the axes: class 0 points right, class 1 up; of the four queries the last is labeled
    # wrongly.
    train_x, train_y = (
        torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]]),
        torch.tensor([0, 0, 1, 1]),
    )
    test_x, test_y = (
        torch.tensor([[5.0, 1.0], [1.0, 4.0], [0.0, 2.0], [3.0, 0.0]]),
        torch.tensor([0, 1, 1, 1]),
    )
    assert knn_accuracy(train_x, train_y, test_x, test_y, 2, ks=(1, 2)) == {1: 75.0, 2: 75.0}


def test_near_neighbor_outvotes_far_ones():
    # exp(0.9 / 0.07) = 383,000 against 2 * exp(0.8 / 0.07) = 184,000; at tau = 1, 2.46 against
    # 4.45.
    similarities, labels = torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[1, 0, 0]])
    assert vote(similarities, labels, 2, 0.07).tolist() == [1]
    assert vote(similarities, labels, 2, 1.0).tolist() == [0]


def test_tiny_temperature_does_not_overflow():
    assert vote(torch.tensor([[1.0, 0.99]]), torch.tensor([[2, 0]]), 3, 1e-4).tolist() == [2]


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 45), st.integers(0, 2**31 - 1))
def test_neighbors_are_ranked_by_similarity_then_place(rows, queries, k, seed):
    # Features of -1, 0, 1 in two dimensions: full of equal similarities and of zero rows.
    g = torch.Generator().manual_seed(seed)
    bank, asked = (torch.randint(-1, 2, (n, 2), generator=g).float() for n in (rows, queries))
    similarities, indices = nearest(asked, bank, k)
    assert indices.shape == (queries, min(k, rows))
    scale = bank.norm(dim=1).clamp_min(1e-12).reciprocal()
    full = (torch.nn.functional.normalize(asked) @ bank.T) * scale
    order = [sorted(range(rows), key=lambda i, row=row: (-row[i], i))[:k] for row in full.tolist()]
    assert indices.tolist() == order
    assert torch.equal(similarities, full.gather(1, indices))


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.integers(1, 30))
def test_one_search_for_several_k_changes_nothing(seed, k):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randint(-1, 2, (60, 3), generator=g).float(), torch.randint(4, (60,), generator=g)
    data = (x[:40], y[:40], x[40:], y[40:], 4)
    assert knn_accuracy(*data, ks=(k, 40))[k] == knn_accuracy(*data, ks=(k,))[k]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_nothing(chunk):
    x, y = clusters(120, 5, 6, seed=2)
    data = (x[:80], y[:80], x[80:], y[80:], 5)
    assert knn_accuracy(*data, ks=(3, 30), chunk=chunk) == knn_accuracy(*data, ks=(3, 30))


def test_scale_of_features_does_not_matter():
    x, _ = clusters(60, 3, 6, seed=3)
    lengths = torch.logspace(-2, 3, 40)[:, None]
    assert torch.equal(nearest(x[40:], x[:40], 5)[1], nearest(x[40:] * 100, x[:40] * lengths, 5)[1])


def test_k_above_the_number_of_images_uses_them_all():
    x, y = clusters(30, 3, 4, seed=4)
    data = (x[:20], y[:20], x[20:], y[20:], 3)
    result = knn_accuracy(*data, ks=(20, 200))
    assert list(result) == [20, 200]
    assert result[20] == result[200]


def test_faults_are_named():
    x = torch.randn(4, 3)
    with pytest.raises(DataError, match="NaN or infinite"):
        nearest(x, torch.full((2, 3), torch.nan), 1)
    with pytest.raises(DataError, match="queries have 3 dimensions and training images 5"):
        nearest(x, torch.randn(2, 5), 1)
    with pytest.raises(DataError, match="no training images"):
        nearest(x, torch.empty(0, 3), 1)
