"""The linear protocol on the grid of patches, against batch norm and a 1x1 convolution in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.probing.features import PATCH_MOMENTS, FeatureExtractor, PatchEncoder
from ssltool.probing.patch_linear import PatchLinear, batch_statistics, fit, fit_and_score


def moments_of(grids: Tensor) -> Tensor:
    """Moments of grids ``[N, D, G, G]``."""
    return torch.cat([grids.mean(dim=(2, 3)), grids.square().mean(dim=(2, 3))], dim=1)


def test_moments_give_the_mean_logits_of_the_grid() -> None:
    torch.manual_seed(0)
    grids = 3 * torch.rand(16, 7, 5, 5) + torch.randn(16, 7, 1, 1)
    own = PatchLinear(7, 4)
    norm, conv = nn.BatchNorm2d(7, affine=False), nn.Conv2d(7, 4, 1)
    with torch.no_grad():
        own.conv.weight.copy_(conv.weight[:, :, 0, 0])
        own.conv.bias.copy_(conv.bias)
    expected = conv(norm(grids)).mean(dim=(2, 3))
    moments = moments_of(grids)
    torch.testing.assert_close(own(moments, batch_statistics(moments)), expected)
    # The gradient too, so that training is the same.
    labels = torch.arange(16) % 4
    for logits in (expected, own(moments, batch_statistics(moments))):
        nn.functional.cross_entropy(logits, labels).backward()
    torch.testing.assert_close(own.conv.weight.grad, conv.weight.grad[:, :, 0, 0])


def test_moments_are_those_of_the_patches_vectors() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet10_w32", norm="ln", last_stage="layer3").eval()
    network = PatchEncoder(encoder, 8, 4)
    images = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8)
    transform = InputTransform(24, (0.5,) * 3, (0.2,) * 3)
    found = FeatureExtractor(network, transform, patch_moments=True)(images)[PATCH_MOMENTS]
    x = transform(images)
    with torch.no_grad():
        vectors = torch.stack(
            [
                encoder(x[:, :, r : r + 8, c : c + 8])
                for r in range(0, 17, 4)
                for c in range(0, 17, 4)
            ]
        )
    expected = torch.cat([vectors.mean(dim=0), vectors.square().mean(dim=0)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert PATCH_MOMENTS not in FeatureExtractor(network, transform)(images)


@pytest.mark.slow
@pytest.mark.ci
def test_separable_classes_are_told_apart_and_noise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssltool.probing.patch_linear._MIN_STEPS", 800)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    grids = torch.randn(200, 8, 3, 3, generator=generator)
    shifted = grids.clone()
    shifted[torch.arange(200), labels] += 2
    x = moments_of(shifted)
    assert fit_and_score(x[:100], labels[:100], x[100:], labels[100:], 4, 0) > 90
    noise = moments_of(grids)
    assert fit_and_score(noise[:100], labels[:100], noise[100:], labels[100:], 4, 0) < 45
    first, again = (fit(x[:100], labels[:100], 4, 3).conv.weight for _ in range(2))
    assert torch.equal(first, again)
