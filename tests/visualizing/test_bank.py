"""Pairs and recognition against brute force; the report on a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssltool.errors import UsageError
from ssltool.methods.base import Memory
from ssltool.visualizing import bank
from ssltool.visualizing.bank import draw_bank, near_duplicates, recognition


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    n=st.integers(2, 12),
    count=st.integers(1, 20),
    rows=st.integers(1, 5),
)
def test_pairs_are_each_vector_with_its_nearest(seed: int, n: int, count: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(n, 4, generator=generator))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "_AT_ONCE", rows * n)
        pairs, similarity, nearest = near_duplicates(vectors, count)
    products = vectors @ vectors.T - 4 * torch.eye(n)
    assert torch.allclose(nearest, products.amax(dim=1), atol=1e-6)
    assert float(similarity[0]) == pytest.approx(float(products.max()), abs=1e-6)
    assert similarity.tolist() == sorted(similarity.tolist(), reverse=True)
    seen: set[int] = set()
    for (i, j), s in zip(pairs.tolist(), similarity.tolist(), strict=True):
        assert i < j
        assert float(products[i, j]) == pytest.approx(s, abs=1e-6)
        assert max(float(nearest[i]), float(nearest[j])) >= s - 1e-6
        assert not {i, j} <= seen
        seen |= {i, j}
    if count >= n:
        assert seen == set(range(n))


def test_many_copies_of_one_image_do_not_hide_other_duplicates() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(40, 16, generator=generator))
    vectors[:10] = vectors[0]
    vectors[31] = F.normalize(vectors[30] + 0.01 * vectors[35], dim=0)
    pairs, _, _ = near_duplicates(vectors, 10)
    assert [30, 31] in pairs.tolist()


def test_recognition_is_equation_2() -> None:
    """T3 of the losses: V, tau and f by hand; -ln P is the softmax loss."""
    vectors = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.6, 0.8]])
    projected = torch.tensor([[0.8, 0.6], [0, 1]])
    log_p, rank, nearest = recognition(projected, torch.tensor([3, 1]), Memory(vectors, 0.1))
    assert (-log_p).tolist() == pytest.approx([0.2063800360, 0.1270079841], abs=1e-5)
    assert rank.tolist() == [1, 1]
    assert nearest.tolist() == [0, 3]
    _, rank, _ = recognition(projected, torch.tensor([2, 0]), Memory(vectors, 0.1))
    assert rank.tolist() == [4, 3]


@pytest.mark.slow
def test_the_report_names_images(pretrained: Any, tmp_path: Path, figure_bytes: Any) -> None:
    run = pretrained(tmp_path / "run", method="npid", steps=3)
    result = draw_bank(run, tmp_path / "bank.png", count=3)
    assert (result.images, result.chance) == (16, 1 / 16)
    assert len(result.duplicates) == len(result.hardest) == 3
    assert result.duplicates[0].similarity >= result.duplicates[-1].similarity
    assert result.hardest[0].log_probability <= result.hardest[-1].log_probability
    for path in (result.path, *result.plots):
        figure_bytes(path)
    assert result.duplicates[0].first in "\n".join(result.summary())


@pytest.mark.slow
def test_other_methods_and_other_images_are_refused(
    run: Path, pretrained: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="jigsaw keeps no memory bank"):
        draw_bank(run, tmp_path / "bank.png")
    other = pretrained(tmp_path / "run", method="npid")
    text = (other / "run.json").read_text()
    (other / "run.json").write_text(text.replace('"demo:16"', '"demo:15"'))
    with pytest.raises(UsageError, match="have changed"):
        draw_bank(other, tmp_path / "bank.png")
