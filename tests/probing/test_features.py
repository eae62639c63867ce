from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssltool.encoders.projection import Projection
from ssltool.encoders.registry import build_encoder
from ssltool.errors import DataError, WeightsError
from ssltool.probing import features
from ssltool.probing.features import Grid

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TRANSFORM = features.InputTransform(16, MEAN, STD)


def make_images(count, side, seed=0):
    return torch.randint(
        0,
        256,
        (count, 3, side, side),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )


def encoder_of(name="resnet10_w32", **options):
    torch.manual_seed(0)
    return build_encoder(name, **options)


def test_each_feature_is_what_the_encoder_gives():
    encoder, images = encoder_of().eval(), make_images(5, 24)
    extracted = features.extract(
        encoder, images.split(2), features.InputTransform(24, MEAN, STD), Grid(600)
    )
    x = (images.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    with torch.no_grad():
        pooled, maps = encoder(x), encoder.maps(x)
    names = [stage.name for stage in encoder.stages]
    # Maps of 32, 32, 64, 128, 256 channels and 24, 24, 12, 6, 3 locations a side: 4x4, 4x4,
    # 3x3, 2x2 of them fit, and 1x1.
    grids = dict(zip(names[:-1], (4, 4, 3, 2), strict=True))
    assert list(extracted) == ["pooled", *names, *(f"{name} grid" for name in grids)]
    assert torch.allclose(extracted["pooled"], pooled, atol=1e-4)
    for name, values in maps.items():
        assert torch.allclose(extracted[name], values.mean((2, 3)), atol=1e-4)
    for name, side in grids.items():
        expected = F.adaptive_avg_pool2d(maps[name], side).flatten(1)
        assert torch.allclose(extracted[f"{name} grid"], expected, atol=1e-4)


def test_pooled_vector_is_the_encoders_own_where_it_is_no_average():
    encoder, images = encoder_of("vit_b_32", image_size=32).eval(), make_images(3, 32)
    extracted = features.extract(encoder, [images], features.InputTransform(32, MEAN, STD))[
        "pooled"
    ]
    with torch.no_grad():
        expected = encoder(features.InputTransform(32, MEAN, STD)(images))
    assert torch.allclose(extracted, expected, atol=1e-4)


def test_batches_change_nothing():
    encoder, images = encoder_of(), make_images(7, 16)
    whole = features.extract(encoder, [images], TRANSFORM, Grid(500))
    parts = features.extract(encoder, images.split(3), TRANSFORM, Grid(500))
    for name, values in whole.items():
        assert parts[name].dtype == torch.float32
        assert torch.allclose(parts[name], values, atol=1e-5)


def test_modes_are_restored_and_statistics_untouched():
    encoder = encoder_of().train()
    norm = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    norm.eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    extracted = features.extract(encoder, [make_images(4, 16)], TRANSFORM)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert not extracted["pooled"].requires_grad


def test_bfloat16_only_if_asked():
    encoder, images = encoder_of(), [make_images(4, 16)]
    exact = features.extract(encoder, images, TRANSFORM)["pooled"]
    rough = features.extract(encoder, images, TRANSFORM, dtype=torch.bfloat16)["pooled"]
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.05 * float(exact.abs().max()))


def test_transform_by_hand():
    images = torch.tensor([[51, 102, 255]], dtype=torch.uint8)[:, :, None, None].expand(1, 3, 2, 2)
    color = features.InputTransform(2, (0.1, 0.2, 0.3), (0.5, 0.1, 0.7))(images)
    assert color[0, :, 1, 0].tolist() == pytest.approx([0.2, 2.0, 1.0], abs=1e-6)
    gray = features.InputTransform(2, (0.2,), (0.1,))(images)
    assert gray.shape == (1, 1, 2, 2)
    assert gray[0, 0, 0, 0].item() == pytest.approx(((0.2 + 0.4 + 1.0) / 3 - 0.2) / 0.1, abs=1e-5)


def test_transform_to_lightness_and_lab():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    light = features.InputTransform(2, (0.5,), (0.5,), "lightness")(red)
    assert light.shape == (1, 1, 2, 2)
    assert light[0, 0, 0, 0].item() == pytest.approx((53.2406 - 50) / 50, abs=1e-4)
    lab = features.InputTransform(2, (0.5, 0.0, 0.0), (0.5, 1.0, 1.0), "lab")(red)
    assert lab[0, :, 1, 1].tolist() == pytest.approx(
        [(53.2406 - 50) / 50, 0.800923, 0.672028], abs=1e-4
    )


def test_shrinking_is_antialiased():
    # Every eighth column is white: without antialiasing some pixels would miss it or be all of it.
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[..., ::8] = 255
    small = features.InputTransform(8, (0.0,), (1.0,))(images)
    assert small.shape == (1, 1, 8, 8)
    assert small.amin() > 0.05
    assert small.amax() < 0.25


def test_gray_encoder_reads_the_mean_of_the_channels():
    encoder, images = encoder_of(in_channels=1), make_images(3, 16)
    mean = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    extracted = features.extract(encoder, [images], features.InputTransform(16, (0.5,), (0.25,)))[
        "pooled"
    ]
    same = features.extract(
        encoder, [mean.expand(-1, 3, -1, -1)], features.InputTransform(16, (0.5,), (0.25,))
    )["pooled"]
    assert torch.allclose(extracted, same, atol=0.02 * float(extracted.abs().max()))


def test_faults_are_named():
    encoder = encoder_of()
    with pytest.raises(DataError, match="no images"):
        features.extract(encoder, [], TRANSFORM)
    with pytest.raises(DataError, match="no images"):
        features.pixel_format([])
    next(encoder.parameters()).data.fill_(torch.nan)
    with pytest.raises(WeightsError, match="'pooled' features hold NaN or infinity"):
        features.extract(encoder, [make_images(2, 16)], TRANSFORM)


def test_pixels_keep_small_images_and_shrink_large_ones():
    small = make_images(4, 28)
    assert torch.equal(features.pixels(small, 28, 3), (small.float() / 255).flatten(1))
    assert features.pixel_format(small.split(2)) == (28, 3)
    assert features.pixel_format([make_images(2, 40)]) == (32, 3)
    assert features.pixels(make_images(2, 40), 8, 3).shape == (2, 3 * 8 * 8)


def test_pixels_of_gray_images_are_one_channel():
    color = make_images(4, 28)
    gray = color[:, :1].expand(-1, 3, -1, -1)
    assert features.pixel_format([gray]) == (28, 1)
    assert features.pixel_format([gray, color]) == (28, 3)
    assert torch.allclose(features.pixels(gray, 28, 1), gray[:, 0].float().flatten(1) / 255)
    expected = color.float().mean(1).flatten(1) / 255
    assert torch.allclose(features.pixels(color, 28, 1), expected)


def test_batch_norm_gets_the_statistics_of_all_images(monkeypatch):
    encoder, images = encoder_of().train(), make_images(10, 16)
    norm = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    norm.running_mean.fill_(torch.nan)
    seen = []
    hook = norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    monkeypatch.setattr(features, "compute_batch", lambda side, device: 4)
    used = features.recalibrate_batch_norm(encoder, images, TRANSFORM)
    hook.remove()
    assert used == len(images)
    assert [len(x) for x in seen] == [5, 5]
    assert torch.allclose(norm.running_mean, torch.cat(seen).mean((0, 2, 3)), atol=1e-5)
    variances = sum(len(x) * x.var((0, 2, 3)) for x in seen) / 10
    assert torch.allclose(norm.running_var, variances, atol=1e-4)
    assert norm.momentum == 0.1
    assert all(module.training for module in encoder.modules())


def test_recalibration_changes_nothing_else_and_repeats():
    first, second, images = encoder_of(), encoder_of(), make_images(8, 16)
    second.load_state_dict(first.state_dict())
    parameters = [p.clone() for p in first.parameters()]
    for encoder in (first, second):
        features.recalibrate_batch_norm(encoder, images, TRANSFORM)
    assert all(torch.equal(p, q) for p, q in zip(parameters, first.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(first.buffers(), second.buffers(), strict=True))


def test_encoder_without_batch_norm_is_left_alone():
    encoder = encoder_of("alexnet")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert (
        features.recalibrate_batch_norm(
            encoder, make_images(2, 64), features.InputTransform(64, MEAN, STD)
        )
        == 0
    )
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_patch_by_patch_is_each_patch_alone():
    encoder = encoder_of(norm="ln", last_stage="layer3").eval()
    images, patch_encoder = make_images(3, 20), features.PatchEncoder(encoder, 8, 4)
    transform = features.InputTransform(20, MEAN, STD)
    extracted = features.extract(patch_encoder, images.split(2), transform, Grid(600))
    x = transform(images)
    with torch.no_grad():
        maps = [
            [encoder.maps(x[:, :, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8]) for j in range(4)]
            for i in range(4)
        ]
    for stage in encoder.stages:
        grid = torch.stack(
            [torch.stack([cell[stage.name].mean((2, 3)) for cell in row], -1) for row in maps], -2
        )
        assert torch.allclose(extracted[stage.name], grid.mean((2, 3)), atol=1e-5)
        side = min(4, int((600 / stage.width) ** 0.5))
        assert torch.allclose(
            extracted[f"{stage.name} grid"], F.adaptive_avg_pool2d(grid, side).flatten(1), atol=1e-5
        )
    assert torch.allclose(extracted["pooled"], extracted["layer3"], atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(patch_encoder(x), extracted["pooled"], atol=1e-5)


def test_patch_by_patch_and_whole_images_differ():
    encoder = encoder_of(norm="ln", last_stage="layer3").eval()
    transform = features.InputTransform(20, MEAN, STD)
    whole = features.extract(encoder, [make_images(3, 20)], transform)["pooled"]
    patch = features.extract(features.PatchEncoder(encoder, 8, 4), [make_images(3, 20)], transform)[
        "pooled"
    ]
    assert whole.shape == patch.shape
    assert not torch.allclose(whole, patch, atol=1e-3)


@pytest.mark.parametrize(("channels", "side"), [(96, 10), (256, 6), (384, 5)])
def test_grids_of_the_colorization_paper(channels: int, side: int) -> None:
    """10x10x96, 6x6x256 and 5x5x384 numbers, whatever the side of the map."""
    grid = Grid(9600, bilinear=True)
    for height in (4, 13, 55):
        map_ = torch.rand(2, channels, height, height)
        expected = F.interpolate(map_, (side, side), mode="bilinear").flatten(1)
        assert torch.equal(grid.of(map_), expected)
        assert grid.of(map_).shape[1] in (9600, 9216)


def test_a_projection_is_a_further_feature_and_its_norm_is_recalibrated() -> None:
    encoder, images = encoder_of().eval(), make_images(12, 24)
    torch.manual_seed(1)
    projection = Projection.build(encoder.width, 6, norm=True).eval()
    transform = features.InputTransform(24, MEAN, STD)
    features.recalibrate_batch_norm(encoder, images, transform, projection=projection)
    extracted = features.extract(encoder, [images], transform, projection=projection)
    pooled = extracted["pooled"]
    assert torch.allclose(extracted["projection"], projection(pooled), atol=1e-6)
    # In evaluation mode the encoder's features differ from those its norms were estimated with.
    assert not torch.equal(projection.norm.running_mean, torch.zeros(6))
    assert not projection.training
