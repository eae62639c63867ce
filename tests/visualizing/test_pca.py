from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ssltool.encoders.padding import replicate_padding
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import load_encoder
from ssltool.errors import UsageError
from ssltool.visualizing.pca import dense_features, draw_pca, principal_colors


def maps(count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.5, 8)[:, None, None]
    return torch.randn(count, 8, 6, 5, generator=generator) * scale


def test_colors_are_scaled_components() -> None:
    drawn = maps()
    colored = principal_colors(drawn)
    flat = drawn.permute(0, 2, 3, 1).reshape(-1, 8).double().numpy()
    reference = PCA(3, svd_solver="full").fit(flat)
    axes = reference.components_
    axes = axes * np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    values = (flat - flat.mean(axis=0)) @ axes.T
    low, high = np.percentile(values, [1, 99], axis=0)
    expected = 255 * ((values - low) / (high - low)).clip(0, 1)
    found = colored.images.permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    assert np.abs(found - expected).max() <= 0.5 + 1e-6
    assert colored.variance == pytest.approx((reference.explained_variance_ratio_.sum(),))


def test_joint_colors_are_independent_of_the_order_and_alike_for_equal_maps() -> None:
    drawn = maps()
    colors = principal_colors(drawn).images
    assert torch.equal(principal_colors(drawn.flip(0)).images, colors.flip(0))
    same = principal_colors(torch.cat([drawn, drawn[:1]])).images
    assert torch.equal(same[0], same[3])


def test_images_by_themselves_have_their_own_components() -> None:
    drawn = maps()
    each = principal_colors(drawn, joint=False)
    assert len(each.variance) == 3
    for one, image in zip(drawn.split(1), each.images, strict=True):
        assert torch.equal(principal_colors(one).images[0], image)
    assert not torch.equal(each.images, principal_colors(drawn).images)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_maps_are_gray(value: float) -> None:
    images = principal_colors(torch.full((2, 4, 3, 3), value)).images
    assert set(images.unique().tolist()) == {128}


def test_a_map_of_two_channels_has_no_third_component() -> None:
    images = principal_colors(maps()[:, :2]).images
    assert images[:, 2].unique().tolist() == [128]
    assert len(images[:, 0].unique()) > 20


def test_padding_leaves_no_frame_and_is_restored() -> None:
    network = build_encoder("resnet18", stem="small").eval()
    x = torch.full((1, 3, 32, 32), 0.7)
    with torch.no_grad():
        plain = network.maps(x)
    with torch.no_grad(), replicate_padding(network):
        continued = network.maps(x)
    for values in continued.values():  # of a constant image, all locations are alike
        assert torch.allclose(values, values[:, :, :1, :1].expand_as(values), atol=1e-4)
    assert any(float(v.std(dim=(2, 3)).max()) > 1e-2 for v in plain.values())
    with torch.no_grad():
        again = network.maps(x)
    assert all(torch.equal(again[name], values) for name, values in plain.items())


@pytest.mark.slow
def test_dense_features_of_a_run(run: Path, tmp_path: Path, figure_bytes: Any) -> None:
    first = draw_pca(run, tmp_path / "a.png", count=3)
    encoder = load_encoder(run / "encoder.safetensors")
    names = [stage.name for stage in encoder.stages]
    assert list(first.stages) == names[-3:]
    assert (first.images, first.joint, first.method) == (3, True, "jigsaw")
    assert all(0 < share <= 1 for (share,) in first.variance.values())
    assert first.summary()[0].startswith(f"{names[-3]}, ")
    larger = draw_pca(run, tmp_path / "b.png", count=2, size=64, stages=[names[-1]], joint=False)
    assert larger.stages[names[-1]] == 64 // encoder.stages[-1].stride
    assert len(larger.variance[names[-1]]) == 2
    assert figure_bytes(tmp_path / "a.png") != figure_bytes(tmp_path / "b.png")
    draw_pca(run, tmp_path / "c.png", count=3)
    assert figure_bytes(tmp_path / "a.png") == figure_bytes(tmp_path / "c.png")


def test_files_and_what_cannot_be_drawn(run: Path, photo: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "encoder.safetensors"  # weights that belong to no run
    alone.parent.mkdir()
    alone.write_bytes((run / "encoder.safetensors").read_bytes())
    assert draw_pca(alone, tmp_path / "a.svg", image=[photo]).images == 1
    with pytest.raises(UsageError, match="name images with --data"):
        draw_pca(alone, tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"--stage layer9: .* has the stages stem, layer1"):
        draw_pca(run, tmp_path / "a.png", stages=["layer9"])
    with pytest.raises(UsageError, match=r"figures are written as \.png"):
        draw_pca(run, tmp_path / "a.jpg")


def test_a_batch_gives_the_features_of_its_images(run: Path) -> None:
    encoder = load_encoder(run / "encoder.safetensors").eval()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    together = dense_features(encoder, encoder.transform, images)
    for i in range(5):
        for name, values in dense_features(encoder, encoder.transform, images[i : i + 1]).items():
            assert torch.allclose(values[0], together[name][i], atol=1e-4)
