from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from ssltool.errors import UsageError
from ssltool.visualizing.features import draw_features, principal_plane, umap_embedding


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_a_map_of_features(
    run: Path, tmp_path: Path, kind: Literal["pca", "tsne"], figure_bytes: Any
) -> None:
    data = ("demo-test:40",)
    result = draw_features(run, tmp_path / "a.png", data=data, kind=kind, count=30)
    assert (result.method, result.images, result.classes) == ("jigsaw", 30, 10)
    assert (result.variance is not None) == (kind == "pca")
    weights = run / "encoder.safetensors"
    draw_features(weights, tmp_path / "b.png", data=data, kind=kind, count=30)
    assert figure_bytes(tmp_path / "a.png") == figure_bytes(tmp_path / "b.png")
    assert draw_features(run, tmp_path / "c.png").images == 16  # the run's own


@pytest.mark.slow
def test_a_map_by_umap(run: Path, tmp_path: Path, figure_bytes: Any) -> None:
    result = draw_features(run, tmp_path / "a.png", data=("demo-test:40",), kind="umap", count=30)
    assert (result.images, result.variance) == (30, None)
    figure_bytes(tmp_path / "a.png")
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features[20:] += 10  # two groups
    first, again = (umap_embedding(0)(features) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(umap_embedding(1)(features), first)
    distances = torch.cdist(first, first)
    nearest = (distances + torch.eye(40) * 1e9).argmin(dim=1)
    assert bool(((nearest >= 20) == (torch.arange(40) >= 20)).all())


def test_a_missing_package_and_too_few_images_are_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[tuple[Literal["tsne", "umap"], str, str]] = [
        ("tsne", "sklearn.manifold", "scikit-learn"),
        ("umap", "umap", "umap-learn"),
    ]
    for kind, module, package in kinds:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=rf"{package}.*pip install 'ssltool\[maps\]'"):
            draw_features(run, tmp_path / "a.png", kind=kind)
    with pytest.raises(UsageError, match="4 images or more"):
        draw_features(run, tmp_path / "a.png", data=("demo:3",))


def test_the_principal_plane_is_that_of_the_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q[:2]
    points, variance = principal_plane(plane @ turn + 7)
    assert sum(variance) == pytest.approx(1)
    assert variance[0] > variance[1]
    assert torch.allclose(torch.cdist(points, points), torch.cdist(plane, plane), atol=1e-5)
    assert points[:, 0].var() > points[:, 1].var()
