from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from ssltool.errors import UsageError
from ssltool.visualizing.features import draw_features, principal_plane


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


def test_a_missing_package_and_too_few_images_are_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UsageError, match=r"ssltool\[maps\]"):
        draw_features(run, tmp_path / "a.png", kind="tsne")
    with pytest.raises(UsageError, match="4 images or more"):
        draw_features(run, tmp_path / "a.png", data=("demo:3",))


def test_the_principal_plane_is_that_of_the_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q[:2]
    points, variance = principal_plane(plane @ turn + 7)
    assert variance == pytest.approx(1)
    assert torch.allclose(torch.cdist(points, points), torch.cdist(plane, plane), atol=1e-5)
    assert points[:, 0].var() > points[:, 1].var()
