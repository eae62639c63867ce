from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import LIGHTNESS_NORM
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe
from ssltool.errors import UsageError
from ssltool.exporting.input_forms import _CONSTANT, _SLOPES, convert
from ssltool.ops.lab import rgb_to_lab

SIDE = 64


def encoder_of(backbone: str, color_space: str = "lightness") -> Encoder:
    """Random weights and batch-norm statistics, with metadata; of a transformer one quarter."""
    torch.manual_seed(0)
    channels = 1 if color_space == "lightness" else 3
    sizes = {"image_size": SIDE, "last_stage": "block3"} if backbone.startswith("vit") else {}
    encoder = build_encoder(backbone, in_channels=channels, **sizes)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    mean, std = LIGHTNESS_NORM if channels == 1 else ((0.5,) * 3, (0.5,) * 3)
    encoder.metadata = describe(
        encoder,
        method="colorization",
        color_space=color_space,
        image_size=SIDE,
        mean=mean,
        std=std,
    )  # type: ignore[arg-type]
    return encoder.eval()


def make_images() -> torch.Tensor:
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.3
    coarse = coarse + 0.7 * torch.rand(
        4, 1, 6, 6, generator=torch.Generator().manual_seed(2)
    )  # mostly light and dark
    return (nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear") * 255).byte()


def features(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        pooled: torch.Tensor = encoder(encoder.transform(make_images()))
    return pooled


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "color_alexnet", "densenet121", "vit_b_32"])
def test_the_lab_form_is_exact_and_the_rgb_form_is_near(backbone: str) -> None:
    encoder = encoder_of(backbone)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    exact, lab, rgb = features(encoder), convert(encoder, "lab"), convert(encoder, "rgb")
    assert (lab.metadata.color_space, lab.metadata.in_channels) == ("lab", 3)
    assert lab.metadata.converted_from == "lightness"
    assert torch.allclose(features(lab), exact, atol=1e-4 * float(exact.abs().max()))
    assert (rgb.metadata.color_space, rgb.metadata.mean) == ("rgb", (0.485, 0.456, 0.406))
    centered = [values - exact.mean(dim=0) for values in (exact, features(rgb))]
    assert torch.cosine_similarity(*centered).mean() > 0.9
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert convert(encoder, "lightness") is encoder


def test_the_slopes_and_the_constant_by_hand() -> None:
    encoder = encoder_of("resnet18")
    rgb = convert(encoder, "rgb")
    kernel = encoder.backbone.conv1.weight
    ratio = rgb.backbone.conv1.weight / kernel
    for channel, slope in enumerate((0.10216, 0.31321, 0.03446)):
        assert ratio[:, channel].detach().flatten().numpy() == pytest.approx(slope, abs=1e-5)
    moved = rgb.backbone.bn1.running_mean - encoder.backbone.bn1.running_mean
    # Off by a constant of -0.0273: what the plane through the gray colors leaves at ImageNet's
    # mean.
    assert torch.allclose(moved, 0.0273 * kernel.sum(dim=(1, 2, 3)), atol=2e-4)


def test_without_batch_norm_the_bias_takes_the_constant() -> None:
    encoder = encoder_of("alexnet")
    rgb = convert(encoder, "rgb")
    first, copy = encoder.backbone.features[0], rgb.backbone.features[0]
    assert torch.allclose(
        copy.bias - first.bias, -0.0273 * first.weight.sum(dim=(1, 2, 3)), atol=2e-4
    )


def test_the_plane_is_the_best_one_through_nearly_gray_colors() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    rgb = generator.uniform(0, 1, (50_000, 1)) + generator.normal(0, 0.1, (50_000, 3))
    rgb = np.c_[np.ones(50_000), np.clip(rgb, 0, 1)]
    light = rgb_to_lab(torch.from_numpy(rgb[:, 1:].T[:, None]))[0, 0].numpy()
    best = np.linalg.lstsq(rgb, light, rcond=None)[0]
    ours = np.array([_CONSTANT, *_SLOPES])
    assert best == pytest.approx(ours, abs=1)
    assert np.sqrt(np.mean((rgb @ ours - light) ** 2)) < 1.7  # plain luma, 30 59 11: 3.3


def test_other_weights_have_no_forms() -> None:
    with pytest.raises(UsageError, match="--form lab: these weights read rgb"):
        convert(encoder_of("resnet18", "rgb"), "lab")
