from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.methods.npid.memory_bank import MemoryBank


def bank_of(rows: Any, dtype: torch.dtype = torch.float32) -> MemoryBank:
    values = torch.as_tensor(rows, dtype=torch.float64).to(dtype)
    bank = MemoryBank(len(values), values.shape[1], dtype)
    bank.rows.copy_(values)
    return bank


@pytest.mark.parametrize(
    ("feature", "momentum", "expected"),
    [
        ((0.0, 1.0), 0.5, (0.7071068, 0.7071068)),
        ((0.6, 0.8), 0.5, (0.8944272, 0.4472136)),
        ((0.0, 1.0), 0.9, (0.9938837, 0.1104315)),
        ((0.0, 1.0), 0.25, (0.3162278, 0.9486833)),
        ((0.0, 1.0), 0.0, (0.0, 1.0)),
        ((-1.0, 0.0), 0.5, (-1.0, 0.0)),
    ],
)
def test_a_row_written_by_hand(
    feature: tuple[float, float], momentum: float, expected: tuple[float, float]
) -> None:
    """T2. Momentum weighs the old row; one port weighs the new one, and 0.9 and 0.25 tell them
    apart.
    """
    bank = bank_of([(1.0, 0.0), (1.0, 0.0)])
    bank.update(torch.tensor([1]), torch.tensor([feature]), momentum)
    assert bank.rows[1].tolist() == pytest.approx(expected, abs=1e-6)
    assert bank.rows[0].tolist() == [1.0, 0.0]


def test_golden_rows() -> None:
    """T5: rows 1 and 4 change, the others keep their bits."""
    d = torch.arange(4)
    rows = F.normalize(torch.sin(1.0 + 4 * torch.arange(6)[:, None] + d), dim=1)
    features = F.normalize(torch.cos(1.0 + 4 * torch.arange(2)[:, None] + d), dim=1)
    bank = bank_of(rows)
    bank.update(torch.tensor([1, 4]), features, 0.5)
    assert bank.rows[1].tolist() == pytest.approx(
        (-0.352820, -0.765719, -0.474620, 0.252843), abs=1e-6
    )
    assert bank.rows[4].tolist() == pytest.approx(
        (-0.413446, 0.277450, 0.713259, 0.493301), abs=1e-6
    )
    untouched = [0, 2, 3, 5]
    assert torch.equal(bank.rows[untouched], rows[untouched])


def test_of_duplicates_the_last_counts_and_starts_from_the_old_row() -> None:
    """T10."""
    bank = MemoryBank(6, 8)
    old = bank.rows[4].clone()
    features = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    bank.update(torch.tensor([4, 2, 4, 4, 2]), features, 0.5)
    assert torch.allclose(
        bank.rows[4], F.normalize(0.5 * old + 0.5 * features[3], dim=0), atol=1e-6
    )


def test_what_is_not_finite_is_not_written() -> None:
    """T11."""
    bank = MemoryBank(4, 8)
    before = bank.rows.clone()
    features = F.normalize(torch.randn(3, 8))
    features[0, 3], features[2, 0] = math.nan, math.inf
    bank.update(torch.tensor([0, 1, 2]), features, 0.5)
    assert torch.equal(bank.rows[[0, 2, 3]], before[[0, 2, 3]])
    assert not torch.equal(bank.rows[1], before[1])


def test_random_rows_are_unit_vectors_and_the_same_for_a_seed() -> None:
    """The released code's have lengths from 0.8 to 1.2."""
    bank = MemoryBank(20_000, 128, seed=3)
    assert torch.allclose(bank.rows.norm(dim=1), torch.ones(20_000), atol=1e-5)
    assert float(bank.rows.mean().abs()) < 1e-3
    again = MemoryBank(20_000, 128, seed=3)
    assert torch.equal(bank.rows, again.rows)
    assert not torch.equal(bank.rows, MemoryBank(20_000, 128, seed=4).rows)
    bank.update(torch.tensor([7]), again.rows[:1], 0.0)
    bank.randomize()
    assert torch.equal(bank.rows, again.rows)


@pytest.mark.parametrize(("dtype", "reached"), [(torch.float32, 0.9999), (torch.float16, 0.999)])
def test_small_updates_are_not_lost(dtype: torch.dtype, reached: float) -> None:
    """At momentum 0.99 a bfloat16 row would stop at cosine 0.98."""
    bank = MemoryBank(1, 128, dtype)
    target = F.normalize(torch.randn(1, 128, generator=torch.Generator().manual_seed(1)))
    for _ in range(800):
        bank.update(torch.tensor([0]), target, 0.99)
    assert float(bank.rows[0].float() @ target[0]) > reached
    assert bank.rows.dtype == dtype


def test_float16_takes_half_the_memory() -> None:
    sizes = [MemoryBank(100, 128, d).rows for d in (torch.float32, torch.float16)]
    assert [rows.numel() * rows.element_size() for rows in sizes] == [51_200, 25_600]


def test_a_batch_of_one_image() -> None:
    bank = MemoryBank(3, 4)
    bank.update(torch.tensor([2]), torch.tensor([[1.0, 0, 0, 0]]), 0.0)
    assert bank.rows[2].tolist() == [1, 0, 0, 0]
    assert bank.similarity(torch.tensor([[0.5, 1, 1, 1]]), torch.tensor([2])).tolist() == [0.5]


def test_state_round_trips_and_is_checked() -> None:
    bank, other = MemoryBank(5, 8, seed=1), MemoryBank(5, 8, seed=2)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.rows, bank.rows)
    state: dict[str, Tensor] = {"rows": bank.rows * 2}
    with pytest.raises(RuntimeError, match="length is not 1"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict({"rows": bank.rows[:4]})
