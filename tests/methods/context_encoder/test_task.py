"""The context encoder against the numbers of the paper and of the released code, and against its
known pitfalls.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.registry import build_encoder
from ssltool.errors import UsageError
from ssltool.methods.base import Reference
from ssltool.methods.context_encoder.losses import (
    adversarial_losses,
    band_weights,
    reconstruction_loss,
)
from ssltool.methods.context_encoder.networks import ChannelwiseLinear, Discriminator
from ssltool.methods.context_encoder.options import ContextEncoderOptions
from ssltool.methods.context_encoder.task import ContextEncoder
from ssltool.methods.options import DataInfo
from ssltool.plotting.records import Lines
from ssltool.training.optim import build_optimizer


def build(
    size: int = 32, channels: int = 3, backbone: str = "resnet10_w32", **options: Any
) -> ContextEncoder:
    info = DataInfo(count=64, image_size=size)
    chosen = ContextEncoderOptions(**options).with_defaults(info)
    torch.manual_seed(0)
    encoder = build_encoder(backbone, in_channels=channels, image_size=size)
    return ContextEncoder(chosen, encoder, info)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_images(count: int, size: int) -> Tensor:
    coarse = torch.rand(count, 3, 5, 5, generator=seeded(3))
    return (F.interpolate(coarse, (size, size), mode="bilinear") * 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_contrast_are_what_features_are_extracted_from(channels: int) -> None:
    method = build(channels=channels, standardize=True).eval()
    images = make_images(3, 32)
    view = method.view(images, torch.arange(3), seeded())
    shown = ~view.mask.expand_as(view.inputs)
    means = (view.inputs * shown).sum(dim=(2, 3)) / shown.sum(dim=(2, 3))
    assert means.abs().max() < 1e-4  # of the visible pixels: the hole tells nothing
    assert view.inputs[~shown].eq(0).all()
    dark = method.view(images // 2, torch.arange(3), seeded())
    assert torch.allclose(dark.inputs, view.inputs, atol=0.05)  # but for rounding to bytes
    inputs = ContextEncoder.inputs(method.options, DataInfo(count=64, image_size=32))
    assert inputs.standardize == "image"


@pytest.mark.parametrize(
    ("side", "overlap", "total"),
    [
        (28, 2, 1060),
        (32, 2, 1264),
        (64, 4, 5056),
        (96, 5, 10044),
        (128, 7, 18460),
        (128, 4, 12736),
        (224, 12, 55744),
    ],
)
def test_the_band_round_the_hole_counts_ten_times(side: int, overlap: int, total: int) -> None:
    weights = band_weights(side, overlap)
    assert float(weights.sum()) == total
    assert set(weights.unique().tolist()) == {1.0, 10.0}
    assert int((weights == 1).sum()) == (side // 2 - 2 * overlap) ** 2


def test_reconstruction_of_a_constant_error() -> None:
    """Error 0.1 on the window of 128 px: 0.045068 as the released code divides, 0.01 divided by the
    weights.
    """
    target = torch.zeros(2, 3, 64, 64, dtype=torch.float64)
    weights = band_weights(128, 7).double()
    assert float(reconstruction_loss(target + 0.1, target, weights, "l2", False)) == pytest.approx(
        0.045068359375
    )
    assert float(reconstruction_loss(target + 0.1, target, weights, "l2", True)) == pytest.approx(
        0.01
    )
    mask = (weights == 1).double()
    assert float(reconstruction_loss(target + 0.1, target, mask, "l2", True)) == pytest.approx(0.01)
    assert float(reconstruction_loss(target + 0.1, target, mask, "l1", True)) == pytest.approx(0.1)


def test_joint_loss_of_an_undecided_discriminator() -> None:
    """0.999 * 0.01 + 0.001 * ln 2 = 0.010683147: the reconstruction is weighted once, not twice as
    in one port.
    """

    class Undecided(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return torch.zeros(len(given), dtype=torch.float64)

    painted = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    painter, judge, _, _ = adversarial_losses(Undecided(), painted, painted)
    assert 0.999 * 0.01 + 0.001 * float(painter) == pytest.approx(0.010683147, abs=1e-9)
    assert float(judge) == pytest.approx(2 * math.log(2))

    method = build(mask="center", adversarial=0.001).train()
    view = method.view(make_images(4, 32), torch.arange(4), seeded())
    method.discriminator = Undecided()
    loss = method(view).value
    alone = build(mask="center").train()
    alone.load_state_dict(method.state_dict(), strict=True)
    expected = 0.999 * alone(view).value + 0.001 * math.log(2) + 2 * math.log(2)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_one_backward_pass_gives_the_gradients_of_two_separate_ones() -> None:
    torch.manual_seed(0)
    painter = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh()
    ).double()
    judge = Discriminator(3, 32).double()
    given, real = (
        torch.randn(4, 3, 32, 32, dtype=torch.float64),
        torch.rand(4, 3, 32, 32, dtype=torch.float64),
    )
    twin_painter, twin_judge = copy.deepcopy(painter), copy.deepcopy(judge)

    painted = painter(given)
    for_painter, for_judge, _, _ = adversarial_losses(judge, painted, real)
    (0.999 * (painted - real).square().mean() + 0.001 * for_painter + for_judge).backward()

    painted = twin_painter(given)
    one, zero = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    (bce(twin_judge(real), one) + bce(twin_judge(painted.detach()), zero)).backward()
    kept = [p.grad.clone() for p in twin_judge.parameters() if p.grad is not None]
    (0.999 * (painted - real).square().mean() + 0.001 * bce(twin_judge(painted), one)).backward()

    for ours, expected in zip(judge.parameters(), kept, strict=True):
        assert ours.grad is not None
        assert torch.allclose(ours.grad, expected, rtol=1e-6, atol=1e-12)
    for p, reinitialized_copy in zip(painter.parameters(), twin_painter.parameters(), strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, reinitialized_copy.grad, rtol=1e-6, atol=1e-12)


def test_the_adversary_is_judged_by_the_statistics_it_leaves_alone() -> None:
    """Judging the painter does not move batch norm's running statistics: one pass on real, one on
    painted images.
    """
    judge = Discriminator(3, 32).train()
    given = torch.rand(4, 3, 32, 32)
    adversarial_losses(judge, given, given)
    norm = next(part for part in judge.modules() if isinstance(part, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 2


def test_the_discriminator_has_its_own_rate_and_sees_the_window_alone() -> None:
    """Ports give both players equal rates; a discriminator of the whole image wins by the seam."""
    method = build(mask="center", adversarial=0.001)
    optimizer = build_optimizer(
        method, "adamw", lr=2e-3, weight_decay=0.0, momentum=0.5, lr_scales=method.lr_scales
    )
    assert method.discriminator is not None
    slow = {id(p) for p in method.discriminator.parameters()}
    for group in optimizer.param_groups:
        expected = 0.1 if id(group["params"][0]) in slow else 1.0
        assert group["lr_scale"] == expected
        assert group["betas"][0] == 0.5
    seen: list[torch.Size] = []
    method.discriminator.layers.register_forward_hook(
        lambda module, given, found: seen.append(given[0].shape)
    )
    method.train()(method.view(make_images(4, 32), torch.arange(4), seeded()))
    assert set(seen) == {torch.Size([4, 3, 16, 16])}
    assert build().lr_scales == {}


def test_visible_pixels_get_no_gradient_and_removed_ones_are_exactly_the_fill() -> None:
    """The released random script averages over the whole image, hole or not."""
    method = build().train()
    view = method.view(make_images(4, 32), torch.arange(4), seeded())
    assert (view.inputs[view.mask.expand_as(view.inputs)] == 0).all()
    painted = torch.zeros(4, 3, 32, 32, requires_grad=True)
    method.predict = lambda given: painted  # type: ignore[method-assign]
    method(view).value.backward()
    assert painted.grad is not None
    outside = ~view.mask.expand_as(painted)
    assert (painted.grad[outside] == 0).all()
    assert (painted.grad[~outside] != 0).any()


def test_the_fill_is_the_mean_color_in_its_own_channel_order() -> None:
    """The released code writes R, G, B = 117, 104, 123; the mean is 123, 117, 104."""
    mean = (123 / 255, 117 / 255, 104 / 255)
    info = DataInfo(count=8, image_size=32, mean=mean)
    method = ContextEncoder(
        ContextEncoderOptions().with_defaults(info), build_encoder("resnet10_w32"), info
    ).eval()
    view = method.view(make_images(2, 32), torch.arange(2), seeded())
    back = view.inputs * torch.tensor(info.std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    filled = (2 * back - 1)[0][:, view.mask[0, 0]][:, 0]
    assert filled.tolist() == pytest.approx([-0.035294, -0.082353, -0.184314], abs=1e-5)


def test_each_image_has_a_mask_of_its_own() -> None:
    """The released script has one mask for the whole batch."""
    view = build().train().view(make_images(6, 32), torch.arange(6), seeded())
    assert len({bytes(mask.flatten().to(torch.uint8).numpy()) for mask in view.mask}) == 6


def test_only_removed_pixels_are_pasted() -> None:
    """Pasting the whole window, band included, leaves a visible box at the seam."""
    method = build(64, mask="center").eval()
    view = method.view(make_images(2, 64), torch.arange(2), seeded())
    method.predict = lambda given: torch.ones(2, 3, 32, 32)  # type: ignore[method-assign]
    filled = method.inpaint(view)
    changed = (filled != view.image).any(dim=1)
    assert torch.equal(changed, view.mask[:, 0])
    assert int(changed[0].sum()) == 24 * 24
    assert (filled[:, :, 20:44, 20:44] == 1).all()


def test_errors_are_on_a_scale_of_0_to_1() -> None:
    """A port measures on -1..1, where L1 is twice and L2 four times as large."""
    method = build(mask="center").eval()
    view = method.view(make_images(4, 32), torch.arange(4), seeded())
    method.predict = lambda given: 2 * (method._windowed(given.image) + 0.1) - 1  # type: ignore[method-assign]
    numbers = method(view).metrics
    assert float(numbers["l1"]) == pytest.approx(0.1, abs=1e-5)
    assert float(numbers["l2"]) == pytest.approx(0.01, abs=1e-5)
    assert float(numbers["psnr"]) == pytest.approx(20, abs=1e-3)
    assert {"l2_mean_color", "l2_interpolation", "psnr_interpolation"} <= set(numbers)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_nearest_training_image_is_measured_and_drawn_once_there_are_some(
    standardize: bool,
) -> None:
    method = build(mask="center", standardize=standardize).eval()
    images, index = make_images(4, 32), torch.arange(4)
    view = method.view(images, index, seeded())
    assert "l2_nearest_neighbor" not in method(view).metrics
    # Copies of the images at other places in the data: each is its copy's nearest neighbor.
    method.reference = Reference(torch.cat([images, images]), torch.arange(8))
    numbers = method(view).metrics
    assert set(numbers) == {m.name for m in method.metrics[1:]}
    assert float(numbers["l2_nearest_neighbor"]) < 1e-8
    method.reference = Reference(images, index)  # its own image is none
    assert float(method(view).metrics["l2_nearest_neighbor"]) > 1e-3
    sheet = method.figures.draw_predictions(method, images, index, seeded()).sheet
    assert list(sheet.columns) == ["context", "prediction", "ground truth", "error"]
    assert "nearest neighbor" in sheet.captions[0]
    curves = method.figures.plots(method, images, index, seeded())["seam"].series
    assert list(curves) == ["context encoder", "mean color", "interpolation", "nearest neighbor"]


def test_an_untrained_network_errs_as_the_mean_color_does() -> None:
    method = build(mask="region").eval()
    numbers = method(method.view(make_images(64, 32), torch.arange(64), seeded())).metrics
    assert float(numbers["l2"]) == pytest.approx(float(numbers["l2_mean_color"]), rel=0.02)


@pytest.mark.parametrize(
    ("backbone", "size", "expected"),
    [
        ("resnet10_w32", 28, False),
        ("alexnet", 227, True),
        ("resnet18", 224, True),
        pytest.param("vit_b_16", 64, False, marks=pytest.mark.slow),
    ],
)
def test_where_the_channelwise_layer_is_used(backbone: str, size: int, expected: bool) -> None:
    method = build(size, backbone=backbone, mask="center")
    used = any(isinstance(part, ChannelwiseLinear) for part in method.modules())
    side = method.encoder.map(torch.randn(2, 3, size, size)).shape[-1]
    assert used == (3 <= side <= 16 and backbone != "vit_b_16")
    assert used == expected or backbone == "resnet10_w32"


def test_a_channelwise_layer_that_does_nothing_or_too_much_is_refused() -> None:
    with pytest.raises(UsageError, match="1x1 map"):
        build(32, backbone="resnet18", channelwise=True)
    with pytest.raises(UsageError, match="million parameters"):
        build(224, channelwise=True)


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    info = DataInfo(8, 64)
    with pytest.raises(UsageError, match="go together"):
        ContextEncoderOptions(region_shapes="files").with_defaults(info)
    with pytest.raises(UsageError, match="exchange"):
        ContextEncoderOptions(coverage_min=0.5).with_defaults(info)
    with pytest.raises(UsageError, match="--overlap 8"):
        ContextEncoderOptions(mask="center", overlap=16).with_defaults(info)
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    assert ContextEncoderOptions(mask_files=tmp_path).with_defaults(info).region_shapes == "files"


def test_a_run_with_mask_files_knows_them_again(tmp_path: Path) -> None:
    image = Image.new("L", (20, 20))
    image.paste(255, (5, 5, 12, 12))
    image.save(tmp_path / "square.png")
    method = build(mask_files=tmp_path)
    assert len(method.fingerprint["mask_files"]) == 64
    assert method.view(make_images(2, 32), torch.arange(2), seeded()).mask.any()


def test_a_gray_encoder_paints_one_channel() -> None:
    method = build(channels=1, mask="center", adversarial=0.001).train()
    view = method.view(make_images(4, 32), torch.arange(4), seeded())
    assert view.target.shape == (4, 1, 16, 16)
    assert torch.isfinite(method(view).value)


@pytest.mark.slow
def test_the_inpainting_preset_is_the_released_network() -> None:
    chosen = {
        k: v
        for k, v in ContextEncoderOptions.presets["inpainting"].items()
        if k in ContextEncoderOptions.model_fields
    }
    method = build(128, backbone="inpaintnet", **chosen)
    size = sum(p.numel() for part in (method.encoder, method.decoder) for p in part.parameters())
    assert size == 71_124_544
    assert method.overlap == 7


def test_the_seam_chart_has_the_error_at_each_distance() -> None:
    method = build(64, mask="center").eval()
    with torch.no_grad():
        chart = method.figures.plots(method, make_images(6, 64), torch.arange(6), seeded())["seam"]
    assert isinstance(chart, Lines)
    assert set(chart.series) == {"context encoder", "mean color", "interpolation"}
    curve = chart.series["interpolation"]
    assert len(curve.x) == 12  # the hole is 24 px wide
    assert curve.y[0] < curve.y[-1]
