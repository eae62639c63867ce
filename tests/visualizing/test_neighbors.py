from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssltool.errors import UsageError
from ssltool.visualizing import neighbors
from ssltool.visualizing.neighbors import draw_neighbors


@pytest.mark.slow
@pytest.mark.parametrize("patch", [None, 12])
def test_neighbors_stand_beside_those_by_random_init(
    run: Path, tmp_path: Path, patch: int | None, figure_bytes: Any
) -> None:
    result = draw_neighbors(run, tmp_path / "a.png", patch=patch, count=2, nearest=3)
    assert set(result.same_class) == {"jigsaw", "random init"}
    assert result.searched == (64 if patch else 16)
    draw_neighbors(run, tmp_path / "b.png", patch=patch, count=2, nearest=3)
    assert figure_bytes(tmp_path / "a.png") == figure_bytes(tmp_path / "b.png")


def test_a_neighbor_is_never_of_the_querys_own_image() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, owner = torch.randn(40, 8, generator=generator), torch.arange(10).repeat_interleave(4)
    queries = torch.tensor([0, 17, 39])
    nearest, _ = neighbors._nearest(vectors, queries, owner, 5)
    centered = vectors - vectors.mean(dim=0)
    for query, row in zip(queries.tolist(), nearest, strict=True):
        similarity = torch.cosine_similarity(centered[query], centered, dim=1)
        similarity[owner == owner[query]] = -2
        assert row.tolist() == similarity.argsort(descending=True)[:5].tolist()


@pytest.mark.slow
def test_neighbors_of_files(run: Path, photo: Path, tmp_path: Path, figure_bytes: Any) -> None:
    result = draw_neighbors(run, tmp_path / "near.png", image=[photo, photo], nearest=3)
    assert (result.searched, result.same_class) == (16, {})
    figure_bytes(result.path)


def test_patches_that_do_not_fit_are_refused(run: Path, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--patch 16"):
        draw_neighbors(run, tmp_path / "a.png", patch=40)
    with pytest.raises(UsageError, match="--image and --patch"):
        draw_neighbors(run, tmp_path / "a.png", patch=8, image=[photo])
