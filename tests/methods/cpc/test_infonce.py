"""The retrieval loss against worked-out numbers, a slow loop, and what public code gets wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssltool.methods.cpc import infonce
from ssltool.methods.cpc.infonce import Negatives, Retrieval, candidates, labels, retrieve
from ssltool.ops import grids
from ssltool.ops.grids import Direction

QUERIES = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64).view(2, 1, 1, 2)
TARGETS = torch.tensor(
    [[[0, 1], [1, 1], [2, 0]], [[0, -1], [1, 0], [0, 2]]], dtype=torch.float64
).view(2, 3, 1, 2)


def test_labels() -> None:
    assert labels(2, 4, 4, 2).tolist() == [list(range(8, 16)), list(range(24, 32))]
    assert labels(2, 3, 1, 2).tolist() == [[2], [5]]


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        ("all", (0.7616301304, 1.4897962335)),
        ("other-images", (0.4938117091, 1.2827462742)),
        ("same-image", (0.4076059644, 0.6041306053)),
    ],
)
def test_the_worked_example(negatives: Negatives, expected: tuple[float, float]) -> None:
    found = retrieve(QUERIES, TARGETS, 2, scale=1.0, negatives=negatives)
    assert found.loss.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_worked_example_has_these_gradients_ranks_and_scale() -> None:
    queries = QUERIES.clone().requires_grad_()
    found = retrieve(queries, TARGETS, 2, scale=1.0)
    found.loss.mean().backward()
    assert float(found.loss.detach().mean()) == pytest.approx(1.1257131819, abs=1e-9)
    assert queries.grad is not None
    expected = [-0.3613306725, 0.1490709969, 0.4064895166, -0.6186593258]
    assert queries.grad.flatten().tolist() == pytest.approx(expected, abs=1e-9)
    # Context 0 finds its target; the target of context 1 scores 1, as do cells 1 and 2 of the other
    # image.
    assert (found.rank == 0).tolist() == [True, False]
    assert found.best.tolist()[0] == 2
    scaled = retrieve(QUERIES, TARGETS, 2, scale=0.1)
    assert float(scaled.loss.mean()) == pytest.approx(1.7063664710, abs=1e-9)


def golden() -> Tensor:
    """sin(1 + ((3b + c) 4 + i) 4 + j), ``[2, 3, 4, 4]``."""
    return torch.sin(1 + torch.arange(2 * 3 * 4 * 4, dtype=torch.float64)).view(2, 3, 4, 4)


def identity_loss(z: Tensor, direction: Direction, offset: int, **options: Any) -> float:
    cells = grids.orient(z, direction).permute(0, 2, 3, 1)
    return float(retrieve(cells[:, :-offset], cells, offset, **options).loss.mean())


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("down", (5.178385, 4.617448, 2.926110)),
        ("up", (5.166321, 4.577855, 2.889920)),
        ("right", (3.449789, 4.933574, 5.852806)),
        ("left", (3.447220, 4.922616, 5.845099)),
    ],
)
def test_golden_values(direction: Direction, expected: tuple[float, ...]) -> None:
    found = [identity_loss(golden(), direction, k, scale=1.0) for k in (1, 2, 3)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_golden_value_with_the_papers_scale() -> None:
    assert identity_loss(golden(), "down", 2, scale=0.1) == pytest.approx(3.510398, abs=1e-6)


def test_up_is_down_on_the_flipped_grid() -> None:
    assert identity_loss(golden(), "up", 2) == pytest.approx(
        identity_loss(golden().flip(2), "down", 2), abs=1e-12
    )


def slow(
    queries: Tensor,
    targets: Tensor,
    offset: int,
    scale: float,
    negatives: Negatives,
    sampled: Tensor | None,
) -> Retrieval:
    """One context after the other, one candidate after the other."""
    images, rows, columns, _ = targets.shape
    losses, ranks, bests = [], [], []
    for b in range(images):
        for i in range(rows - offset):
            for j in range(columns):
                true = (b, i + offset, j)
                scores = {}
                for p in range(images):
                    for u in range(rows):
                        for v in range(columns):
                            allowed = {
                                "all": True,
                                "other-images": p != b,
                                "same-image": p == b,
                                "random": sampled is not None
                                and u * columns + v in sampled[p].tolist(),
                            }[negatives]
                            if allowed or (p, u, v) == true:
                                scores[p, u, v] = scale * float(queries[b, i, j] @ targets[p, u, v])
                total = sum(math.exp(score) for score in scores.values())
                losses.append(math.log(total) - scores[true])
                ranks.append(sum(score >= scores[true] for score in scores.values()) - 1)
                p, u, v = max(scores, key=lambda key: scores[key])
                bests.append((p * rows + u) * columns + v)
    return Retrieval(torch.tensor(losses), torch.tensor(ranks), torch.tensor(bests))


@settings(max_examples=25)
@given(
    st.integers(2, 3),
    st.integers(2, 4),
    st.integers(1, 3),
    st.sampled_from(["all", "other-images", "same-image", "random"]),
    st.integers(0, 1000),
)
def test_every_mode_is_what_a_loop_gives(
    images: int, rows: int, columns: int, mode: Negatives, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    offset = 1 + seed % (rows - 1)
    targets = torch.randn(images, rows, columns, 5, generator=generator, dtype=torch.float64)
    queries = torch.randn(
        images, rows - offset, columns, 5, generator=generator, dtype=torch.float64
    )
    sampled = torch.stack(
        [torch.randperm(rows * columns, generator=generator)[:2] for _ in range(images)]
    )
    found = retrieve(queries, targets, offset, scale=0.7, negatives=mode, sampled=sampled)
    expected = slow(queries, targets, offset, 0.7, mode, sampled)
    assert torch.allclose(found.loss, expected.loss.double(), atol=1e-6)
    assert torch.equal(found.rank, expected.rank)
    assert torch.equal(found.best, expected.best)


@pytest.mark.parametrize("mode", ["all", "other-images", "same-image", "random"])
def test_parts_of_a_small_memory_give_the_same_loss_and_gradients(mode: Negatives) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(5, 4, 3, 6, generator=generator, requires_grad=True)
    queries = torch.randn(5, 2, 3, 6, generator=generator, requires_grad=True)
    sampled = torch.stack([torch.randperm(12, generator=generator)[:4] for _ in range(5)])
    whole = retrieve(queries, targets, 2, negatives=mode, sampled=sampled)
    gradients = torch.autograd.grad(whole.loss.square().mean(), (queries, targets))
    for budget in (1, 2 * 6 * 60 * 4):
        parts = retrieve(queries, targets, 2, negatives=mode, sampled=sampled, budget=budget)
        assert torch.allclose(parts.loss, whole.loss, atol=1e-6)
        assert torch.equal(parts.rank, whole.rank)
        assert torch.equal(parts.best, whole.best)
        again = torch.autograd.grad(parts.loss.square().mean(), (queries, targets))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, again, strict=True))


CHANCE = [
    (7, 16, 6.6644),
    (7, 32, 7.3576),
    (7, 64, 8.0507),
    (7, 256, 9.4370),
    (6, 64, 7.7424),
    (6, 512, 9.8218),
]


@pytest.mark.parametrize(("side", "images", "expected"), CHANCE)
def test_knowing_nothing_costs_log_n(side: int, images: int, expected: float) -> None:
    assert math.log(candidates("all", images, side**2, 0)) == pytest.approx(expected, abs=5e-5)
    if images <= 32:
        targets = torch.randn(images, side, side, 4)
        found = retrieve(torch.zeros(images, side - 3, side, 4), targets, 3)
        assert float(found.loss.mean()) == pytest.approx(expected, abs=5e-5)
        # Equal scores are nobody's success.
        assert not (found.rank == 0).any()


@pytest.mark.parametrize("mode", ["other-images", "same-image", "random"])
def test_log_n_of_the_other_modes(mode: Negatives) -> None:
    sampled = torch.tensor([[0, 1]]).expand(4, -1)  # never a target at offset 2
    found = retrieve(
        torch.zeros(4, 2, 3, 2), torch.randn(4, 4, 3, 2), 2, negatives=mode, sampled=sampled
    )
    expected = {"other-images": 3 * 12 + 1, "same-image": 12, "random": 4 * 2 + 1}[mode]
    assert candidates(mode, 4, 12, 2) == expected
    assert found.loss.tolist() == pytest.approx([math.log(expected)] * len(found.loss), abs=1e-5)


def test_a_true_cell_sampled_as_well_is_not_its_own_negative() -> None:
    """Public code draws negatives without excluding the positive: a perfect prediction then costs
    log 2.
    """
    targets = 10 * torch.eye(8).view(2, 4, 1, 8)
    everything = torch.arange(4).expand(2, -1)
    found = retrieve(targets[:, 2:], targets, 2, scale=1.0, negatives="random", sampled=everything)
    assert float(found.loss.max()) < 1e-6
    assert (found.rank == 0).all()


def test_a_hopeless_prediction_still_has_a_gradient() -> None:
    """log(softmax + 1e-11), as public code writes it, stops at 25.3 with no gradient."""
    targets = torch.zeros(2, 3, 1, 2, dtype=torch.float64)
    targets[0, 0, 0, 0] = 400.0
    queries = torch.ones(2, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    loss = retrieve(queries, targets, 2, scale=1.0).loss
    assert float(loss[0].detach()) == pytest.approx(400.0)
    (gradient,) = torch.autograd.grad(loss[0], queries)
    assert float(gradient.abs().max()) > 100


def test_an_offset_without_rows_is_refused() -> None:
    """Public code divides by nothing there, gets NaN, and drops every NaN."""
    targets = torch.randn(2, 3, 3, 4)
    for offset, rows in ((3, 0), (0, 3), (1, 1)):
        with pytest.raises(ValueError, match="offset"):
            retrieve(torch.randn(2, rows, 3, 4), targets, offset)
    with pytest.raises(ValueError, match="sampled"):
        retrieve(torch.randn(2, 2, 3, 4), targets, 1, negatives="random")


def test_the_order_of_the_images_does_not_matter() -> None:
    targets, queries = torch.randn(4, 4, 3, 5), torch.randn(4, 2, 3, 5)
    order = torch.tensor([2, 0, 3, 1])
    before = retrieve(queries, targets, 2).loss.view(4, -1)
    after = retrieve(queries[order], targets[order], 2).loss.view(4, -1)
    assert torch.allclose(after, before[order], atol=1e-6)


def test_scores_are_float32_under_autocast() -> None:
    targets, queries = torch.randn(4, 4, 3, 64), torch.randn(4, 2, 3, 64)
    exact = retrieve(queries, targets, 2).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = retrieve(queries, targets, 2).loss
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_the_budget_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    score = infonce._score

    def noting(asked: Tensor, *rest: Any) -> Any:
        sizes.append(len(asked))
        return score(asked, *rest)

    monkeypatch.setattr(infonce, "_score", noting)
    retrieve(torch.randn(6, 2, 3, 4), torch.randn(6, 4, 3, 4), 2, budget=2 * (2 * 3) * (6 * 12) * 4)
    assert sizes == [2, 2, 2]
