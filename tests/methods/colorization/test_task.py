"""Colorization against the numbers of the paper, and against faults known from its ports."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ssltool.encoders.registry import build_encoder
from ssltool.errors import DataError, UsageError
from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.options import ColorizationOptions
from ssltool.methods.colorization.prior import is_gray, sample_points
from ssltool.methods.colorization.task import Colorization, ColorizationView
from ssltool.methods.options import DataInfo
from ssltool.ops.lab import lightness, rgb_to_lab
from ssltool.visualizing.predictions import score

SIDE = 32


def build(
    size: int = SIDE, backbone: str = "resnet10_w32", prepared: bool = False, **options: Any
) -> Colorization:
    info = DataInfo(count=64, image_size=size)
    chosen = ColorizationOptions(**options).with_defaults(info)
    torch.manual_seed(0)
    method = Colorization(chosen, build_encoder(backbone, stem="small", in_channels=1), info)
    if prepared:
        method.prepare([(blobs(16, size), torch.arange(16))])
    return method


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, size: int = SIDE) -> Tensor:
    """Smooth color images, uint8."""
    coarse = torch.rand(count, 3, 4, 4, generator=seeded(1))
    return (torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear") * 255).byte()


def gray(count: int, size: int = SIDE) -> Tensor:
    return torch.full((count, 3, size, size), 128, dtype=torch.uint8)


def told(method: Colorization, answer: Tensor) -> None:
    """Make the network answer this, whatever it sees."""
    method.predict = lambda seen, side: answer  # type: ignore[method-assign]


def of_color(ab: Tensor, colored: Tensor, method: Colorization) -> ColorizationView:
    """A view of given colors ``[B, 2, t, t]``."""
    target = method.encode(ab.movedim(1, -1))
    seen = torch.zeros(len(ab), 1, SIDE, SIDE)
    return ColorizationView(seen, ab, target.bins, target.shares, colored, gray(len(ab)))


@pytest.mark.parametrize(
    ("side", "stride", "expected"), [(8, 4, [2, 6]), (6, 2, [1, 3, 5]), (5, 1, [0, 1, 2, 3, 4])]
)
def test_colors_are_taken_in_the_middle_of_their_places(
    side: int, stride: int, expected: list[int]
) -> None:
    # Taken at the corner, as in the release, they would lie 1.5 px off after enlarging by 4.
    images = torch.arange(side)[:, None] * 100 + torch.arange(side)
    found = sample_points(images[None, None], stride)[0, 0]
    assert found[0].tolist() == [expected[0] * 100 + x for x in expected]
    assert found[:, 0].tolist() == [y * 100 + expected[0] for y in expected]


@pytest.mark.parametrize(
    ("size", "stride", "places"), [(28, None, 14), (32, None, 16), (64, None, 16), (96, None,
    24), (128, None, 32),
                                   (176, None, 44), (180, 8, 23), (224, None, 56)]
)  # fmt: skip
def test_sides_of_the_map(size: int, stride: int | None, places: int) -> None:
    resolved = ColorizationOptions(target_stride=stride).with_defaults(DataInfo(100, size))
    assert resolved.target_stride
    assert sample_points(torch.zeros(1, 3, size, size), resolved.target_stride).shape[-1] == places


def test_sigma_is_half_a_step_unless_given() -> None:
    info = DataInfo(100, 64)
    assert ColorizationOptions().with_defaults(info).sigma == 5
    assert ColorizationOptions(bin_step=25).with_defaults(info).sigma == 12.5
    assert ColorizationOptions(sigma=3).with_defaults(info).sigma == 3


def test_the_view_splits_the_image() -> None:
    method = build(encoding="exact").eval()
    images = blobs(3)
    view = method.view(images, torch.arange(3), seeded())
    assert torch.equal(view.image, images)
    assert torch.allclose(view.lightness, (lightness(images) - 50) / 50)
    assert torch.allclose(view.ab, rgb_to_lab(sample_points(images, 2))[:, 1:], atol=1e-4)
    assert view.ab.shape == (3, 2, 16, 16)
    assert view.bins.shape == view.shares.shape == (3, 16, 16, 10)
    assert torch.allclose(view.shares.sum(dim=-1), torch.ones(3, 16, 16))
    assert view.colored.all()


def test_training_views_are_crops_of_their_images_with_their_colors() -> None:
    method = build(crop_min=0.25, flip=0.5).train()
    images = blobs(1).expand(64, -1, -1, -1)
    view = method.view(images, torch.arange(64), seeded())
    assert len({bytes(image.numpy()) for image in view.image}) > 60
    assert torch.allclose(view.ab, rgb_to_lab(sample_points(view.image, 2))[:, 1:], atol=1e-4)
    assert torch.allclose(view.lightness, (lightness(view.image) - 50) / 50, atol=1e-6)
    whole = build(crop_min=1.0, flip=0.0).train().view(images, torch.arange(64), seeded())
    # A box of the whole area that is not square does not fit, so the image is taken as it is.
    assert torch.equal(whole.image, images)
    mirrored = build(crop_min=1.0, flip=1.0).train().view(images, torch.arange(64), seeded())
    assert torch.equal(mirrored.image, images.flip(-1))


def test_gray_rules() -> None:
    plain = gray(2, 64)
    plain[1, 0, 30, 30] = 142  # one pixel of red 14 more
    ab = rgb_to_lab(plain)[:, 1:]
    assert is_gray(ab, "any").tolist() == [True, False]
    assert is_gray(ab, "p99").tolist() == [True, True]
    tinted = rgb_to_lab(
        torch.tensor([142, 128, 128], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    )[:, 1:]
    assert not is_gray(tinted, "any").any()
    assert not is_gray(tinted, "p99").any()


def test_grayness_belongs_to_the_image_not_to_the_crop() -> None:
    images = gray(40)
    images[:, 0, :, :8] = 250  # color in a quarter that many crops miss
    view = build(crop_min=0.1).train().view(images, torch.arange(40), seeded())
    assert is_gray(view.ab, "p99").any()
    assert view.colored.all()


@pytest.mark.parametrize("options", [{}, {"loss": "euclidean"}, {"encoding": "dense"}])
@pytest.mark.parametrize("training", [True, False])
def test_a_gray_batch_has_a_loss_of_exactly_zero(options: dict[str, Any], training: bool) -> None:
    method = build(prepared=True, **options).train(training)
    loss = method(method.view(gray(4), torch.arange(4), seeded()))
    loss.value.backward()
    assert loss.value.item() == 0
    assert all(torch.isfinite(value) for value in loss.metrics.values())
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_gray_images_do_not_dilute_the_mean() -> None:
    # Masked pixels must leave the divisor too, else a tenth of the images in color has a tenth of
    # the loss.
    method = build(prepared=True).eval()
    images = torch.cat([blobs(3), gray(5)])
    with torch.no_grad():
        mixed = method(method.view(images, torch.arange(8), seeded()))
        alone = method(method.view(images[:3], torch.arange(3), seeded()))
    assert float(mixed.value) == pytest.approx(float(alone.value), rel=1e-5)
    for name, value in alone.metrics.items():
        assert float(mixed.metrics[name]) == pytest.approx(float(value), rel=1e-4), name


def test_uniform_answers_cost_ln_q_times_the_weight_of_the_bin() -> None:
    method = build(rebalance=0.5, rebalance_ramp=0)
    with torch.no_grad():
        method.prior.zero_()[[120, 121]] = torch.tensor([0.9, 0.1])
    weight = ab_bins.rebalancing_weights(method.prior, 0.5)[121]
    ab = (
        torch.tensor([1.0, 9.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    )  # nearest to bin 121, (0, 10)
    told(method, torch.zeros(1, 313, 16, 16))
    loss = method.train()(of_color(ab, torch.tensor([True]), method))
    assert float(loss.metrics["cross_entropy"]) == pytest.approx(5.746203, abs=1e-5)
    assert float(loss.value) == pytest.approx(float(weight) * 5.746203, rel=1e-5)
    assert float(weight) > 3


def test_weights_act_in_the_loss_and_in_the_gradient_alike() -> None:
    # The release multiplies only the gradient, so its printed loss does not show whether weights
    # act at all.
    method = build(rebalance_ramp=0)
    with torch.no_grad():
        method.prior.zero_()[[120, 240]] = torch.tensor([0.95, 0.05])
    weights = method.weights
    colors = method.centers[[120, 240]].view(2, 2, 1, 1).expand(2, 2, 16, 16)
    answer = torch.zeros(2, 313, 16, 16, requires_grad=True)
    told(method, answer)
    method.train()(of_color(colors, torch.tensor([True, True]), method)).value.backward()
    assert answer.grad is not None
    slope = answer.grad.abs().sum(dim=(1, 2, 3))
    assert float(slope[1] / slope[0]) == pytest.approx(float(weights[240] / weights[120]), rel=0.1)


def test_the_weights_ramp_up_with_the_steps() -> None:
    method = build(prepared=True, rebalance=0.5, rebalance_ramp=4)
    spread = []
    for _ in range(6):
        spread.append(float(method.weights.max() / method.weights.min()))
        method.after_step([])
    assert spread[0] == pytest.approx(1)
    assert spread == sorted(spread)
    assert spread[4] == pytest.approx(spread[5])
    assert spread[4] == pytest.approx(1 + 313 * float(method.prior.max()), rel=1e-3)
    again = build(rebalance=0.5, rebalance_ramp=4)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.weights, method.weights)
    assert torch.equal(
        build(prepared=True, rebalance=1.0, rebalance_ramp=0).weights.round(decimals=5),
        torch.ones(313),
    )


def test_the_loss_is_the_mean_over_pixels_not_divided_by_the_weights() -> None:
    method = build(prepared=True, rebalance_ramp=0)
    view = method.eval().view(blobs(4), torch.arange(4), seeded())
    answer = torch.randn(4, 313, 16, 16, generator=seeded(2))
    told(method, answer)
    cost = ab_bins.soft_cross_entropy(answer, view.target)
    expected = (method.weights[view.target.nearest] * cost).mean()
    assert float(method(view).value) == pytest.approx(float(expected), rel=1e-5)


def test_the_perfect_answer_costs_the_floor_and_no_area() -> None:
    method = build(prepared=True, encoding="dense", temperature=1.0, rebalance=1.0).eval()
    view = method.view(blobs(4), torch.arange(4), seeded())
    told(method, view.shares.movedim(-1, 1).clamp_min(1e-30).log())
    loss = method(view)
    assert float(loss.metrics["cross_entropy"]) == pytest.approx(
        float(loss.metrics["target_entropy"]), rel=1e-4
    )
    assert float(loss.metrics["saturation"]) == pytest.approx(1, abs=0.02)
    assert float(loss.metrics["auc"]) > 0.99
    assert float(loss.metrics["rebalanced_auc"]) > 0.99


def test_areas_by_hand() -> None:
    method = build(encoding="exact", temperature=0.0, loss="euclidean").eval()
    with torch.no_grad():
        method.prior.zero_()[[120, 121]] = torch.tensor([0.8, 0.2])
    ab = torch.zeros(1, 2, 16, 16)
    ab[0, 1, :, 8:] = 10.0  # half in bin 120, half in bin 121; answering gray is off by 0 and by 10
    told(method, torch.zeros(1, 2, 16, 16))
    numbers = method(of_color(ab, torch.tensor([True]), method)).metrics
    at_ten = 140.5 / 150
    assert float(numbers["auc"]) == float(numbers["auc_of_gray"]) == pytest.approx((1 + at_ten) / 2)
    assert float(numbers["rebalanced_auc"]) == pytest.approx((1.25 + 5 * at_ten) / 6.25)
    assert float(numbers["rebalanced_auc"]) == float(numbers["rebalanced_auc_of_gray"])


def test_the_euclidean_loss_by_hand() -> None:
    method = build(loss="euclidean")
    ab = torch.tensor([33.0, -44.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    told(method, torch.zeros(1, 2, 16, 16))
    assert float(method(of_color(ab, torch.tensor([True]), method)).value) == pytest.approx(
        (0.3**2 + 0.4**2) / 2
    )
    assert method.colors(ab / 110, 0.38).equal(ab / 110 * 110)
    assert "loss" not in method.chance
    method = build(loss="euclidean", prepared=True)
    with torch.no_grad():
        first = method.train()(method.view(blobs(8), torch.arange(8), seeded()))
    assert float(first.value) == pytest.approx(method.chance["loss"], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("given", [{}, {"neighbors": 1}, {"loss": "euclidean"}])
def test_chance_is_the_loss_of_the_best_constant_prediction(
    training: bool, given: dict[str, Any]
) -> None:
    """Found here by descent on the loss itself."""
    method = build(prepared=True, **given).train(training)
    method.steps_taken += method.options.rebalance_ramp
    view = method.view(blobs(16), torch.arange(16), seeded())
    width = 2 if given.get("loss") == "euclidean" else len(method.centers)
    constant = torch.zeros(1, width, 1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=100, line_search_fn="strong_wolfe")
    side = view.ab.shape[-1]

    def loss() -> Tensor:
        optimizer.zero_grad()
        told(method, constant.expand(16, -1, side, side))
        value = method(view).value
        value.backward()
        return value

    first = float(loss())
    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert float(loss()) == pytest.approx(method.chance["loss"], rel=1e-3)
    assert method.chance["loss"] < 0.98 * first


def test_the_first_cross_entropy_is_ln_q_and_head_widths_follow_the_bins() -> None:
    for step, count in ((10, 313), (20, 101), (25, 72)):
        method = build(bin_step=step, prepared=True)
        loss = method.eval()(method.view(blobs(8), torch.arange(8), seeded()))
        assert float(loss.metrics["cross_entropy"]) == pytest.approx(math.log(count), rel=0.05)
        assert method.fingerprint["bins"]["count"] == count


@pytest.mark.parametrize("head", ["fcn", "deep", pytest.param("fc", marks=pytest.mark.slow)])
def test_heads_answer_at_the_targets_side(head: str) -> None:
    method = build(head=head).eval()
    with torch.no_grad():
        assert method.predict(torch.zeros(1, 1, SIDE, SIDE), 16).shape == (1, 313, 16, 16)


def test_a_last_stage_without_stride_doubles_the_map_and_keeps_the_keys() -> None:
    coarse, fine = build(), build(last_stride=1)
    x = torch.zeros(1, 1, SIDE, SIDE)
    assert fine.encoder.map(x).shape[-1] == 2 * coarse.encoder.map(x).shape[-1]
    assert set(fine.state_dict()) == set(coarse.state_dict())
    info = DataInfo(64, 64)
    options = ColorizationOptions(last_stride=1).with_defaults(info)
    with pytest.raises(UsageError, match="last-stride"):
        Colorization(options, build_encoder("color_alexnet", in_channels=1), info)


def test_images_without_color_are_refused_before_any_work() -> None:
    with pytest.raises(DataError, match="gray") as stop:
        ColorizationOptions().with_defaults(DataInfo(100, 28, gray=True))
    assert "\n" not in str(stop.value)
    with pytest.raises(DataError, match="all of the 6 sampled images are gray"):
        build().prepare([(gray(4), torch.arange(4)), (gray(2), torch.arange(2))])


def test_the_prior_is_the_mean_of_the_targets_of_images_with_color() -> None:
    method = build(encoding="exact")
    images = blobs(6)
    batches = [(torch.cat([images[:4], gray(2)]), torch.arange(6)), (images[4:], torch.arange(2))]
    said = method.prepare(batches)
    target = ab_bins.encode_exact(
        rgb_to_lab(sample_points(images, 2))[:, 1:].movedim(1, -1), method.centers, 10, 5.0
    )
    expected = ab_bins.total(target, 313) / (6 * 16 * 16)
    assert torch.allclose(method.prior.double(), expected, atol=1e-6)
    assert float((method.prior * method.weights).sum()) == pytest.approx(1, abs=1e-5)
    assert "colors of 8 images, 2 of them gray (25.0%)" in said


@pytest.mark.parametrize(
    ("options", "metric"),
    [({}, "cross_entropy"), ({"neighbors": 1}, "cross_entropy"), ({"loss": "euclidean"}, "loss")],
)
def test_the_constant_prediction_that_is_named_is_the_chance_level(
    options: dict[str, Any], metric: str
) -> None:
    method = build(crop_min=0.3, **options).train()
    said = method.prepare([(blobs(8), torch.arange(8))])
    found = re.search(r"the best constant prediction has a (\S+) of (\S+) in training", said)
    assert found
    assert found[1] == metric.replace("_", "-")
    assert float(found[2]) == pytest.approx(method.chance[metric], rel=1e-3)


def test_gray_images_do_not_dilute_the_scores() -> None:
    """Two batches are scored, of which one has no color."""
    method = build(prepared=True)
    colored, index = blobs(6), torch.arange(80)
    mixed = torch.cat([gray(70), colored, gray(4)])
    scores, counted = score(method, mixed, index, 0)
    assert counted == 6
    expected, _ = score(method, colored, index[70:76], 0)
    for found, alone in zip(scores, expected, strict=True):
        assert found.value == pytest.approx(alone.value, rel=1e-5), found.name
    assert score(method, gray(5), index[:5], 0) == ((), 0)


@pytest.mark.parametrize("encoding", ["exact", "dense", "table"])
def test_batches_of_one_or_no_image_with_color_are_counted(encoding: str) -> None:
    method = build(encoding=encoding)
    method.prepare(
        [
            (images, torch.arange(len(images)))
            for images in (gray(3), blobs(1), gray(2), blobs(2)[1:])
        ]
    )
    assert float(method.prior.sum()) == pytest.approx(1, abs=1e-5)


def test_one_bin_per_color_leaves_the_smoothing_to_the_prior() -> None:
    red = torch.tensor([220, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(4, 3, SIDE, SIDE)
    hard, soft = build(neighbors=1, encoding="exact"), build(encoding="exact")
    for method in (hard, soft):
        method.prepare([(red, torch.arange(4))])
    assert int((hard.prior > 1e-4).sum()) > 5
    assert hard.prior.argmax() == soft.prior.argmax()


@pytest.mark.slow
def test_counting_stops_when_two_halves_agree_and_goes_on_while_they_do_not() -> None:
    alike = blobs(1).expand(64, -1, -1, -1)
    read = 0

    def endless(kinds: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal read
        for kind in kinds:
            read += 1
            yield kind, torch.arange(len(kind))

    build().prepare(endless([alike] * 50))
    assert read == 4  # 256 images
    red, blue = gray(64), gray(64)
    red[:, 0], blue[:, 2] = 250, 250
    different = torch.stack([red, blue], dim=1).flatten(0, 1)  # every other image of another color
    read = 0
    build().prepare(endless([different] * 7))
    assert read == 7


def test_a_vivid_commonest_color_is_mentioned() -> None:
    # The known corrupt list of shares has its largest at (-90, 90): its images were counted in a
    # wrong range.
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(4, 3, SIDE, SIDE)
    assert "vivid, a = -90, b = 80: make sure that the images are sRGB" in build().prepare(
        [(green, torch.arange(4))]
    )
    assert "vivid" not in build().prepare([((blobs(8) // 4 + 96), torch.arange(8))])


def test_answers_decode_logits_and_keep_the_lightness() -> None:
    method = build(prepared=True).eval()
    images = torch.cat([blobs(2), gray(1)])
    view = method.view(images, torch.arange(3), seeded())
    told(method, torch.zeros(3, 313, 16, 16).scatter(1, view.target.nearest[:, None], 12.0))
    shown = method.figures.draw_predictions(method, images, torch.arange(3), seeded())
    columns = {name: column.images for name, column in shown.sheet.columns.items()}
    assert list(columns) == ["gray input", "prediction", "ground truth"]
    assert torch.equal(columns["ground truth"], images)
    for name, stack in columns.items():
        difference = (lightness(stack[:2]) - lightness(images[:2])).abs()
        assert difference.median() < 1.0, name
    nearly = (columns["prediction"][:2].float() - images[:2].float()).abs().mean()
    assert nearly < 12
    assert "mean ab error" in shown.sheet.captions[0]
    assert shown.sheet.captions[2] == "a gray image, weight 0 in the loss"


def test_the_table_of_soft_targets_is_not_saved() -> None:
    saved = build().state_dict()
    assert {"prior", "constant", "steps_taken"} <= set(saved)
    assert not {"centers", "table_bins", "table_shares"} & set(saved)


def test_the_three_encodings_train_alike() -> None:
    losses = []
    for encoding in ("exact", "table", "dense"):
        method = build(prepared=True, encoding=encoding).train()
        losses.append(method(method.view(blobs(4), torch.arange(4), seeded())).value.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=0.01)
