"""Losses against numbers worked out in float64, slow references, and what ports get wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ssltool.methods.npid import losses as nce
from ssltool.methods.npid.losses import Others

NONE = torch.tensor([-1, -1])


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1
    )


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    assert torch.allclose(found.detach(), double(expected), rtol=0, atol=tolerance), found


@pytest.fixture
def small() -> tuple[Tensor, Tensor, Others]:
    """Two queries, their positives, three negatives each; tau 0.5, c 2."""
    queries = double([[1, 0], [0.6, 0.8]]).requires_grad_()
    positives = double([[0.6, 0.8], [0, 1]])
    rows = double([[0, 1], [-1, 0], [0.8, -0.6], [1, 0], [-0.6, -0.8], [0, -1]])
    return queries, positives, Others(rows, torch.tensor([[0, 1, 2], [3, 4, 5]]), NONE)


def test_nce_by_hand(small: tuple[Tensor, Tensor, Others]) -> None:
    """T1. The data's size appears nowhere: Z = c n and noise 1/n cancel."""
    queries, positives, others = small
    log_cm = double(math.log(2 * 3))
    noise, log_sum, largest = nce.noise_terms(queries, others, 0.5, log_cm)
    positive = (queries * positives).sum(dim=1) / 0.5
    close((positive - log_cm).sigmoid(), [0.3562312523, 0.4522064970])
    losses = nce.nce_loss(positive, noise, log_cm)
    close(losses, [1.8104879946, 1.2894329808])
    close(losses.mean(), 1.5499604877)
    losses.mean().backward()
    close(queries.grad, [[-0.0465543864, -0.6434817535], [0.3429962511, -0.5979941678]])
    close((log_sum.logsumexp(dim=0) - math.log(6)).exp(), 1.6242860719)
    close(
        torch.cat([log_sum, positive.detach()]).logsumexp(dim=0).sub(math.log(8)).exp(),
        2.2523582223,
    )
    close(largest, [1.6, 1.2])


def test_infonce_by_hand(small: tuple[Tensor, Tensor, Others]) -> None:
    queries, positives, others = small
    log_sum, _ = nce.log_sum_exp(queries, others, 0.5)
    loss = nce.softmax_loss((queries * positives).sum(dim=1) / 0.5, log_sum).mean()
    close(loss, 0.7972902440)


def test_full_softmax_by_hand() -> None:
    """T3."""
    rows = double([[1, 0], [0, 1], [-1, 0], [0.6, 0.8]])
    queries = double([[0.8, 0.6], [0, 1]]).requires_grad_()
    own = torch.tensor([3, 1])
    log_sum, _ = nce.log_sum_exp(queries, Others(rows, None, own), 0.1)
    losses = nce.softmax_loss((queries * rows[own]).sum(dim=1) / 0.1, log_sum)
    close(losses, [0.2063800360, 0.1270079841])
    losses.mean().backward()
    close(queries.grad, [[0.2618096175, -0.6347621039], [0.3575801681, -0.1195932387]])


def golden() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d = torch.arange(4, dtype=torch.float64)
    rows = F.normalize(torch.sin(1 + 4 * torch.arange(6)[:, None] + d), dim=1)
    queries = F.normalize(torch.cos(1 + 4 * torch.arange(2)[:, None] + d), dim=1)
    return rows, queries, torch.tensor([1, 4]), torch.tensor([[0, 2, 3, 5], [5, 0, 0, 3]])


def test_golden_numbers_without_randomness() -> None:
    """T5."""
    rows, queries, own, ids = golden()
    similarity = (queries * rows[own]).sum(dim=1)
    close(similarity, [-0.800087, -0.524710], 1e-6)
    positive, log_cm = similarity / 0.07, double(math.log(2.2087 * 4))
    losses = nce.nce_loss(
        positive, nce.noise_terms(queries, Others(rows, ids, own), 0.07, log_cm)[0], log_cm
    )
    close(losses, [37.770856, 37.841496], 1e-6)
    sampled = nce.softmax_loss(positive, nce.log_sum_exp(queries, Others(rows, ids, own), 0.07)[0])
    close(sampled, [25.867346, 21.608730], 1e-6)
    full = nce.softmax_loss(positive, nce.log_sum_exp(queries, Others(rows, None, own), 0.07)[0])
    close(full, [25.867346, 21.586155], 1e-6)


def test_noise_terms_of_shards_add_up() -> None:
    """T5, three owners of two rows each; -1 marks what a shard does not hold."""
    rows, queries, own, ids = golden()
    log_cm = double(math.log(2.2087 * 4))
    total = F.softplus(log_cm - (queries * rows[own]).sum(dim=1) / 0.07)
    for start in (0, 2, 4):
        local = torch.where((ids >= start) & (ids < start + 2), ids - start, -1)
        total = (
            total
            + nce.noise_terms(queries, Others(rows[start : start + 2], local, NONE), 0.07, log_cm)[
                0
            ]
        )
    close(total.mean(), 37.806176, 1e-6)


def slow(queries: Tensor, others: Others, temperature: float) -> Tensor:
    """All logits at once, one by one."""
    rows, ids, own = others
    table = torch.full(
        (len(queries), len(rows) if ids is None else ids.shape[-1]), -math.inf, dtype=queries.dtype
    )
    picked = []
    for b in range(len(queries)):
        listed = range(len(rows)) if ids is None else (ids[b] if ids.dim() == 2 else ids).tolist()
        picked.append(
            [
                queries[b] @ rows[j].to(queries.dtype) / temperature
                if j >= 0 and j != int(own[b])
                else table[b, k]
                for k, j in enumerate(listed)
            ]
        )
    return torch.stack([torch.stack(row) for row in picked])


@settings(max_examples=40)
@given(
    b=st.integers(1, 5),
    n=st.integers(2, 12),
    m=st.integers(1, 9),
    kind=st.sampled_from(["all", "shared", "own"]),
    at_once=st.sampled_from([1, 7, 40, 2**20]),
    seed=st.integers(0, 1000),
)
def test_walking_in_pieces_equals_all_at_once(
    b: int, n: int, m: int, kind: str, at_once: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, queries = unit(n, 3, seed=seed), unit(b, 3, seed=seed + 1).requires_grad_()
    shape = {"all": None, "shared": (m,), "own": (b, m)}[kind]
    ids = None if shape is None else torch.randint(-1, n, shape, generator=generator)
    others = Others(rows, ids, torch.randint(-1, n, (b,), generator=generator))
    table = slow(queries, others, 0.1) + 0 * queries.sum()  # a graph even where nothing is left
    weights = torch.rand(b, generator=generator, dtype=torch.float64)
    left = (table > -math.inf).any(dim=1).detach()

    log_sum, largest = nce.log_sum_exp(queries, others, 0.1, at_once)
    expected = table[left].logsumexp(dim=1)
    assert torch.allclose(log_sum[left], expected)
    assert torch.equal(log_sum[~left], table[~left, 0])
    assert torch.allclose(largest, table.amax(dim=1))
    found = torch.autograd.grad((log_sum * weights)[left].sum(), queries, retain_graph=True)[0]
    wanted = torch.autograd.grad((expected * weights[left]).sum(), queries, retain_graph=True)[0]
    assert torch.allclose(found, wanted)

    log_cm = double(0.7)
    noise, log_sum, largest = nce.noise_terms(queries, others, 0.1, log_cm, at_once)
    expected = F.softplus(table - log_cm, threshold=200).sum(dim=1)
    assert torch.allclose(noise, expected, atol=1e-7)
    assert torch.allclose(largest, table.amax(dim=1))
    assert torch.allclose(log_sum[left], table[left].logsumexp(dim=1))
    found = torch.autograd.grad((noise * weights).sum(), queries, retain_graph=True)[0]
    wanted = torch.autograd.grad((expected * weights).sum(), queries)[0]
    assert torch.allclose(found, wanted, atol=1e-7)


def test_a_gradient_where_nothing_is_left_is_zero_not_nan() -> None:
    queries = unit(2, 4).requires_grad_()
    others = Others(unit(3, 4), torch.tensor([-1]), NONE)
    log_sum, _ = nce.log_sum_exp(queries, others, 0.07)
    assert torch.equal(log_sum.detach(), double([-math.inf, -math.inf]))
    nce.softmax_loss(queries.sum(dim=1), log_sum).sum().backward()
    assert torch.equal(queries.grad, torch.zeros_like(queries))


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
def test_nothing_overflows_for_any_similarity(temperature: float) -> None:
    """exp(1 / 0.02) is beyond float16 and its sums are at the end of float32."""
    query = unit(1, 8, dtype=torch.float32)
    queries = torch.cat([query, -query, query]).requires_grad_()
    others = Others(torch.cat([query, -query] * 500), None, torch.tensor([-1, -1, 0]))
    log_sum, _ = nce.log_sum_exp(queries, others, temperature)
    noise, _, _ = nce.noise_terms(queries, others, temperature, torch.tensor(-1 / temperature))
    (log_sum + noise).sum().backward()
    assert log_sum.isfinite().all()
    assert noise.isfinite().all()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def test_half_precision_rows_are_compared_in_the_precision_of_the_queries() -> None:
    rows, queries = unit(50, 16, dtype=torch.float32), unit(4, 16, seed=1, dtype=torch.float32)
    own = torch.arange(4)
    full, _ = nce.log_sum_exp(queries, Others(rows, None, own), 0.07)
    half, _ = nce.log_sum_exp(queries, Others(rows.half(), None, own), 0.07)
    assert half.dtype == torch.float32
    assert torch.allclose(full, half, atol=0.02)


def test_the_proximal_term_by_hand() -> None:
    """T8."""
    f, v = double([[0.6, 0.8]]).requires_grad_(), double([[1, 0]])
    value = nce.proximal(f, (f * v).sum(dim=1), 30)
    close(value, [24])
    value.sum().backward()
    close(f.grad, [[-24, 48]])


@pytest.mark.parametrize(
    ("width", "temperature", "c"),
    [
        (64, 0.05, 19.94),
        (64, 0.07, 4.750),
        (128, 0.07, 2.209),
        (128, 0.2, 1.103),
        (256, 0.1, 1.216),
        (128, 0.05, 4.685),
    ],
)
def test_the_constant_of_random_vectors(width: int, temperature: float, c: float) -> None:
    assert math.exp(nce.log_constant(width, temperature)) == pytest.approx(
        c, abs=6e-4 if c < 2 else 6e-3
    )


def test_the_own_row_is_skipped() -> None:
    """T6: the references let an image be its own negative."""
    seeds = torch.randint(2**62, (25_000,), generator=torch.Generator().manual_seed(0))
    index = torch.full((25_000,), 2)
    drawn = nce.sample(seeds, index, 5, 4, shared=False, exclude=True)
    shares = drawn.flatten().bincount(minlength=5) / drawn.numel()
    assert shares[2] == 0
    assert all(abs(float(shares[j]) - 0.25) < 0.006 for j in (0, 1, 3, 4))
    with_own = (
        nce.sample(seeds, index, 5, 4, shared=False, exclude=False).flatten().bincount(minlength=5)
        / 1e5
    )
    assert all(abs(float(share) - 0.2) < 0.006 for share in with_own)


def test_a_shared_sample_belongs_to_the_first_image() -> None:
    seeds = torch.tensor([5, 6, 7])
    whole = nce.sample(seeds, torch.arange(3), 100, 20, shared=True, exclude=True)
    assert whole.shape == (20,)
    assert torch.equal(
        whole, nce.sample(seeds[:1], torch.arange(1), 100, 20, shared=True, exclude=True)
    )
    assert not torch.equal(
        whole, nce.sample(seeds[1:], torch.arange(2), 100, 20, shared=True, exclude=True)
    )


def test_own_rows_in_a_shared_sample_are_left_out() -> None:
    queries, rows = unit(2, 4), unit(10, 4, seed=1)
    ids = torch.tensor([3, 7, 3])
    log_sum, _ = nce.log_sum_exp(queries, Others(rows, ids, torch.tensor([3, 9])), 0.1)
    assert log_sum[0] == pytest.approx(float(queries[0] @ rows[7]) / 0.1)
    assert log_sum[1] == pytest.approx(float((queries[1] @ rows[ids].T / 0.1).logsumexp(0)))


@pytest.mark.parametrize(
    ("m", "nce_value", "infonce_value"), [(4096, 10.11, 9.11), (1024, 8.72, 7.72), (64, 5.95, 4.95)]
)
def test_the_first_loss_of_random_vectors(m: int, nce_value: float, infonce_value: float) -> None:
    """T7, c measured on the same batch."""
    rows, queries = (
        unit(5000, 128, dtype=torch.float32),
        unit(256, 128, seed=1, dtype=torch.float32),
    )
    index = torch.arange(256)
    ids = nce.sample(torch.arange(256) * 7919, index, 5000, m, shared=False, exclude=True)
    others = Others(rows, ids, index)
    positive = (queries * rows[:256]).sum(dim=1) / 0.07
    log_sum, _ = nce.log_sum_exp(queries, others, 0.07)
    log_cm = log_sum.logsumexp(dim=0) - math.log(256)
    noise, _, _ = nce.noise_terms(queries, others, 0.07, log_cm)
    assert float(nce.nce_loss(positive, noise, log_cm).mean()) == pytest.approx(nce_value, abs=0.2)
    assert float(nce.softmax_loss(positive, log_sum).mean()) == pytest.approx(
        infonce_value, abs=0.2
    )
